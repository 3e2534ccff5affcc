// The avatar in three dimensions: orbit, play, three layers. The elements are those of report.html.j2.
import {
  AmbientLight,
  AnimationMixer,
  CanvasTexture,
  CircleGeometry,
  Color,
  DirectionalLight,
  HemisphereLight,
  Mesh,
  MeshBasicMaterial,
  MeshStandardMaterial,
  PerspectiveCamera,
  REVISION,
  Scene,
  SkeletonHelper,
  SkinnedMesh,
  Spherical,
  Vector3,
  WebGLRenderer,
} from 'three';
import { OrbitControls } from 'three/addons/controls/OrbitControls.js';
import { GLTFLoader } from 'three/addons/loaders/GLTFLoader.js';

const FIELD_OF_VIEW = 28; // vertical, degrees
const MARGIN = 1.06; // room around the person
const TURN = Math.PI / 18; // of an arrow key
const ZOOM = 1.15; // of a plus key
const LIFT = 0.06; // of a page key, in distances from the person
const CLAY = 0xcdc5ba;
const WIRE = 0x20262e;
const LONGEST_STEP = 0.25; // seconds that a slow picture may skip

const byId = (id) => document.getElementById(id);
const stage = byId('viewer-stage');
const message = byId('viewer-message');
const playButton = byId('viewer-play');
const slider = byId('viewer-frame');
const frameText = byId('viewer-frame-text');
const inset = byId('viewer-inset');
const settings = JSON.parse(byId('viewer-data').textContent);

function embeddedGlb() {
  const text = atob(byId('viewer-glb').textContent.trim());
  const data = new Uint8Array(text.length);
  for (let k = 0; k < text.length; k += 1) data[k] = text.charCodeAt(k);
  return data.buffer;
}

/** The materials of the three layers for what one mesh of the file came with. */
function layersOf(mesh) {
  const { map, normalMap, normalScale, vertexColors, side } = mesh.material;
  const clay = { color: CLAY, roughness: 0.85, normalMap, normalScale, side };
  return {
    textured: new MeshBasicMaterial({ map, vertexColors, side }),
    shaded: new MeshStandardMaterial(clay),
    wireframe: new MeshStandardMaterial({ ...clay, polygonOffset: true, polygonOffsetFactor: 1, polygonOffsetUnits: 1 }),
  };
}

/** The same mesh once more, as lines over itself. */
function wiresOf(mesh) {
  const material = new MeshBasicMaterial({ color: WIRE, wireframe: true, transparent: true, opacity: 0.3 });
  const wires = mesh.isSkinnedMesh ? new SkinnedMesh(mesh.geometry, material) : new Mesh(mesh.geometry, material);
  if (mesh.isSkinnedMesh) wires.bind(mesh.skeleton, mesh.bindMatrix);
  wires.frustumCulled = false;
  mesh.parent.add(wires);
  return wires;
}

/** A soft dark spot on the floor, so that the person stands on something. */
function shadowSpot(radius) {
  const picture = document.createElement('canvas');
  picture.width = picture.height = 128;
  const context = picture.getContext('2d');
  const fade = context.createRadialGradient(64, 64, 0, 64, 64, 64);
  fade.addColorStop(0, 'rgba(0,0,0,.42)');
  fade.addColorStop(0.45, 'rgba(0,0,0,.2)');
  fade.addColorStop(1, 'rgba(0,0,0,0)');
  context.fillStyle = fade;
  context.fillRect(0, 0, 128, 128);
  const material = new MeshBasicMaterial({ map: new CanvasTexture(picture), transparent: true, depthWrite: false });
  const spot = new Mesh(new CircleGeometry(radius, 48), material);
  spot.rotation.x = -Math.PI / 2;
  return spot;
}

function addLights(scene, camera) {
  const key = new DirectionalLight(0xffffff, 2.5);
  const fill = new DirectionalLight(0xdfe8ff, 0.6);
  key.position.set(-0.9, 1.3, 1.2);
  fill.position.set(1.4, 0.2, 0.8);
  camera.add(key, fill);
  camera.add(key.target, fill.target);
  key.target.position.set(0, 0, -1);
  fill.target.position.set(0, 0, -1);
  scene.add(camera, new HemisphereLight(0xdfe6f2, 0x6b5f55, 0.85), new AmbientLight(0xffffff, 0.15));
}

async function start() {
  const renderer = new WebGLRenderer({ antialias: true, alpha: true });
  renderer.setPixelRatio(Math.min(window.devicePixelRatio, 2));
  const canvas = renderer.domElement;
  const gltf = await new GLTFLoader().parseAsync(embeddedGlb(), '');

  const scene = new Scene();
  scene.add(gltf.scene);
  const camera = new PerspectiveCamera(FIELD_OF_VIEW, 1, 0.05, 100);
  addLights(scene, camera);
  const low = new Vector3(...settings.low);
  const high = new Vector3(...settings.high);
  const middle = low.clone().add(high).multiplyScalar(0.5);
  const spot = shadowSpot(0.32 * (high.y - low.y));
  spot.position.set(middle.x, 0.001, middle.z);
  scene.add(spot);

  const meshes = [];
  gltf.scene.traverse((thing) => {
    if (thing.isMesh) meshes.push(thing);
  });
  const parts = meshes.map((mesh) => {
    mesh.frustumCulled = false; // the box of the canonical pose does not hold the posed person
    return { mesh, layers: layersOf(mesh), wires: wiresOf(mesh) };
  });
  const bones = new SkeletonHelper(gltf.scene);
  bones.material.depthTest = false;
  bones.visible = false;
  if (bones.bones.length) bones.setColors(new Color(0xff7a1a), new Color(0xffc46b));
  scene.add(bones);

  const mixer = new AnimationMixer(gltf.scene);
  if (gltf.animations.length) mixer.clipAction(gltf.animations[0]).play();

  const controls = new OrbitControls(camera, canvas);
  controls.enableDamping = true;
  controls.dampingFactor = 0.12;
  controls.zoomToCursor = true;
  const size = high.clone().sub(low);
  controls.cursor.copy(middle); // what is looked at stays on or near the person
  controls.maxTargetRadius = 0.55 * size.y;
  controls.minDistance = 0.3 * size.y;
  controls.maxDistance = 8 * size.y;
  controls.maxPolarAngle = 0.62 * Math.PI;
  canvas.style.touchAction = 'pan-y'; // a finger that moves up or down scrolls the page

  let touched = false;
  let seen = true;
  let playing = false;
  let asked = false;
  let before = 0;
  let time = 0;

  function draw(now) {
    asked = false;
    if (playing) {
      time = (time + Math.min((now - before) / 1000, LONGEST_STEP)) % (settings.frames / settings.rate);
      before = now;
      show();
      request();
    }
    if (controls.update()) request();
    renderer.render(scene, camera);
    stage.dataset.shown = slider.value;
  }

  function request() {
    if (!asked && seen) {
      asked = true;
      requestAnimationFrame(draw);
    }
  }

  /** Pose, slider and inset as the time has them. */
  function show() {
    const frame = Math.min(Math.floor(time * settings.rate + 1e-6), settings.frames - 1);
    const last = (settings.frames - 1) / settings.rate;
    mixer.setTime(Math.max(0, Math.min(time, last - 1e-6))); // at its very end a repeated clip is at its beginning
    slider.value = frame;
    slider.setAttribute('aria-valuetext', `frame ${frame} of ${settings.frames - 1}`);
    frameText.textContent = `${frame} / ${settings.frames - 1}`;
    if (settings.sheet) {
      const { columns, rows, step } = settings.sheet;
      const tile = Math.min(Math.round(frame / step), Math.ceil(settings.frames / step) - 1);
      const share = (index, count) => (count > 1 ? (100 * index) / (count - 1) : 0);
      inset.style.backgroundPosition = `${share(tile % columns, columns)}% ${share(Math.floor(tile / columns), rows)}%`;
    }
    request();
  }

  function setPlaying(value) {
    playing = value && settings.frames > 1;
    before = performance.now();
    playButton.textContent = playing ? 'Pause' : 'Play';
    request();
  }

  function setLayer(name) {
    for (const { mesh, layers, wires } of parts) {
      mesh.material = layers[name];
      wires.visible = name === 'wireframe';
    }
    request();
  }

  /** From the front, near enough to fill the stage. */
  function frameAll() {
    const slope = Math.tan((FIELD_OF_VIEW * Math.PI) / 360);
    const across = Math.hypot(size.x, size.z) / 2;
    const distance = Math.max(size.y / 2 / slope, Math.min(across, size.x / 2) / (slope * camera.aspect));
    controls.target.copy(middle);
    camera.position.set(middle.x, middle.y + 0.08 * size.y, middle.z + MARGIN * distance + size.z / 4);
    controls.update();
    request();
  }

  function turn(across, upward, nearer) {
    touched = true;
    const offset = camera.position.clone().sub(controls.target);
    const spherical = new Spherical().setFromVector3(offset);
    spherical.theta += across;
    spherical.phi = Math.min(Math.max(spherical.phi + upward, 0.05), controls.maxPolarAngle);
    spherical.radius = Math.min(Math.max(spherical.radius / nearer, controls.minDistance), controls.maxDistance);
    camera.position.copy(controls.target).add(offset.setFromSpherical(spherical));
    controls.update();
    request();
  }

  function lift(share) {
    touched = true;
    const step = share * camera.position.distanceTo(controls.target);
    camera.position.y += step;
    controls.target.y += step;
    controls.update();
    request();
  }

  const keys = {
    PageUp: () => lift(LIFT),
    PageDown: () => lift(-LIFT),
    ArrowLeft: () => turn(-TURN, 0, 1),
    ArrowRight: () => turn(TURN, 0, 1),
    ArrowUp: () => turn(0, -TURN, 1),
    ArrowDown: () => turn(0, TURN, 1),
    '+': () => turn(0, 0, ZOOM),
    '=': () => turn(0, 0, ZOOM),
    '-': () => turn(0, 0, 1 / ZOOM),
    ' ': () => setPlaying(!playing),
    Home: () => frameAll(),
  };
  canvas.addEventListener('keydown', (event) => {
    const act = keys[event.key];
    if (!act || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    act();
  });
  canvas.tabIndex = 0;
  canvas.setAttribute('role', 'application');
  canvas.setAttribute('aria-label', 'The avatar in three dimensions');
  canvas.setAttribute('aria-describedby', 'viewer-help');
  canvas.addEventListener('pointerdown', () => canvas.focus({ preventScroll: true }));
  const onlyWithFocus = (event) => {
    if (document.activeElement !== canvas && !event.ctrlKey) event.stopPropagation();
  };
  stage.addEventListener('wheel', onlyWithFocus, { capture: true, passive: true });

  controls.addEventListener('start', () => {
    touched = true;
  });
  controls.addEventListener('change', request);
  playButton.addEventListener('click', () => setPlaying(!playing));
  slider.addEventListener('input', () => {
    setPlaying(false);
    time = Number(slider.value) / settings.rate;
    show();
  });
  for (const choice of document.querySelectorAll('input[name="viewer-layer"]')) {
    choice.addEventListener('change', () => setLayer(choice.value));
    if (choice.checked) setLayer(choice.value);
  }
  const skeleton = byId('viewer-skeleton');
  skeleton.addEventListener('change', () => {
    bones.visible = skeleton.checked;
    request();
  });
  const withInput = byId('viewer-input');
  if (withInput) withInput.addEventListener('change', () => inset.toggleAttribute('hidden', !withInput.checked));
  byId('viewer-reset').addEventListener('click', () => {
    touched = false;
    frameAll();
  });
  const full = byId('viewer-full');
  const figure = byId('viewer');
  if (!figure.requestFullscreen) full.hidden = true;
  full.addEventListener('click', () => {
    if (document.fullscreenElement) document.exitFullscreen();
    else figure.requestFullscreen();
  });
  document.addEventListener('fullscreenchange', () => {
    full.textContent = document.fullscreenElement ? 'Leave full screen' : 'Full screen';
  });

  stage.prepend(canvas);
  new ResizeObserver(() => {
    const { clientWidth, clientHeight } = stage;
    if (!clientWidth || !clientHeight) return;
    renderer.setSize(clientWidth, clientHeight, false);
    camera.aspect = clientWidth / clientHeight;
    camera.updateProjectionMatrix();
    if (!touched) frameAll();
    request();
  }).observe(stage);
  new IntersectionObserver((entries) => {
    seen = entries[entries.length - 1].isIntersecting;
    before = performance.now();
    request();
  }).observe(stage);
  show();
  setPlaying(!window.matchMedia('(prefers-reduced-motion: reduce)').matches);
  message.hidden = true;
  byId('viewer').dataset.state = 'ready';
  byId('viewer').dataset.three = REVISION;
}

start().catch((error) => {
  message.hidden = false;
  message.textContent = `The avatar cannot be shown here: ${error.message || error}. The pictures below need no WebGL.`;
  byId('viewer').dataset.state = 'failed';
});
