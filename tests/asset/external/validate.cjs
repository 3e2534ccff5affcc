// node validate.cjs MODULES FILE.glb: the Khronos validator's report, as JSON.
const path = require('path');
const validator = require(path.join(process.argv[2], 'gltf-validator'));
const data = new Uint8Array(require('fs').readFileSync(process.argv[3]));
validator.validateBytes(data).then((report) => console.log(JSON.stringify(report.issues)));
