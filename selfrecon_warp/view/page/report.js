// Light and dark, and the picture before and after. Works without WebGL; without scripts the page shows all pictures.
(() => {
  'use strict';
  const byId = (id) => document.getElementById(id);
  const root = document.documentElement;

  const button = byId('theme');
  const dark = window.matchMedia('(prefers-color-scheme: dark)');
  const current = () => root.dataset.theme || (dark.matches ? 'dark' : 'light');
  const label = () => {
    const other = current() === 'dark' ? 'light' : 'dark';
    button.textContent = other === 'dark' ? 'Dark' : 'Light';
    button.setAttribute('aria-label', `Use ${other} colours`);
  };
  button.hidden = false;
  button.addEventListener('click', () => {
    root.dataset.theme = current() === 'dark' ? 'light' : 'dark';
    label();
  });
  dark.addEventListener('change', label);
  label();

  const section = byId('compare');
  if (!section) return;
  const rows = [...document.querySelectorAll('article[data-frame]')];
  const split = byId('compare-split');
  const share = byId('compare-share');
  const frame = byId('compare-frame');
  const kinds = [...document.querySelectorAll('input[name="compare-kind"]')];
  if (!kinds.length) return;

  const cut = () => {
    split.style.setProperty('--share', `${share.value}%`);
    share.setAttribute('aria-valuetext', `${share.value} percent input`);
  };
  const choose = () => {
    const row = rows[Number(frame.value)];
    const kind = Number(kinds.find((choice) => choice.checked).value);
    const pictures = row.querySelectorAll('.view img');
    const name = row.querySelectorAll('figcaption')[kind].textContent;
    byId('compare-before').src = pictures[0].src;
    byId('compare-after').src = pictures[kind].src;
    byId('compare-after').alt = `${name}, frame ${row.dataset.frame}`;
    byId('compare-before').alt = `The input, frame ${row.dataset.frame}`;
    byId('compare-tag').textContent = name.toLowerCase();
    byId('compare-frame-text').textContent = row.dataset.frame;
    frame.setAttribute('aria-valuetext', `frame ${row.dataset.frame}`);
    split.style.aspectRatio = `${pictures[0].getAttribute('width')} / ${pictures[0].getAttribute('height')}`;
  };
  const follow = (event) => {
    const box = split.getBoundingClientRect();
    share.value = Math.round((100 * (event.clientX - box.left)) / box.width);
    cut();
  };
  split.addEventListener('pointerdown', (event) => {
    if (event.button !== 0) return;
    split.setPointerCapture(event.pointerId);
    share.focus({ preventScroll: true });
    event.preventDefault();
    follow(event);
  });
  split.addEventListener('pointermove', (event) => {
    if (split.hasPointerCapture(event.pointerId)) follow(event);
  });
  share.addEventListener('input', cut);
  frame.addEventListener('input', choose);
  for (const kind of kinds) kind.addEventListener('change', choose);
  section.hidden = false;
  cut();
  choose();
})();
