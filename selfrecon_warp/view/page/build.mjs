// Bundles viewer.js with the parts of three.js it uses into viewer.min.js; `make viewer` runs it.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { build } from 'esbuild';

const versionOf = (name) => JSON.parse(readFileSync(`node_modules/${name}/package.json`)).version;
const source = createHash('sha256').update(readFileSync('viewer.js')).digest('hex');
const banner = `/* viewer.js ${source.slice(0, 16)}, three ${versionOf('three')} (MIT), esbuild ${versionOf('esbuild')} */`;

await build({
  entryPoints: ['viewer.js'],
  outfile: 'viewer.min.js',
  bundle: true,
  minify: true,
  format: 'iife',
  target: 'es2020',
  charset: 'ascii',
  legalComments: 'inline',
  banner: { js: banner },
});
