// Two bundles: what every window loads, and the language client, which is loaded when a file of ours is open.
// Beside them goes the licence of every package that is inside.
import * as fs from 'node:fs';
import * as path from 'node:path';
import * as esbuild from 'esbuild';

const { metafile } = await esbuild.build({
  entryPoints: ['src/extension.ts', 'src/session.ts'],
  outdir: 'dist',
  bundle: true,
  format: 'cjs',
  platform: 'node',
  target: 'node20',
  external: ['vscode', './session'],
  minify: true,
  legalComments: 'none',
  metafile: true,
  logLevel: 'warning',
});

const packages = new Set(
  Object.keys(metafile.inputs)
    .map((input) => /^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(input)?.[1])
    .filter((folder) => folder !== undefined),
);
const notices = [...packages].sort().map((folder) => {
  const { name, version, license } = JSON.parse(fs.readFileSync(path.join(folder, 'package.json'), 'utf8'));
  const file = fs.readdirSync(folder).find((one) => /^licen[cs]e/i.test(one));
  const text = file ? fs.readFileSync(path.join(folder, file), 'utf8').trim() : license;
  return `## ${name} ${version} (${license})\n\n${text}\n`;
});
fs.writeFileSync('dist/THIRD-PARTY.md', `# Packages inside the bundles\n\n${notices.join('\n')}`);
