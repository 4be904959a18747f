import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { seeded } from '../../test/support/inquiries.ts';
import { banking77 } from '../banking77.ts';

export interface Texts {
  /** One privacy unit each. */
  readonly train: readonly string[];
  /** For choosing settings: in no figure. */
  readonly tuning: readonly string[];
  readonly heldOut: readonly string[];
}

export function shuffled<T>(items: readonly T[], seed: number): T[] {
  const random = seeded(seed);
  return items
    .map(item => ({ item, at: random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ item }) => item);
}

/** Inquiries, one a unit: 9,003 of the training part, 1,000 of it set aside for tuning, 1,000 of the test part held out. */
export function inquiries(): Texts {
  const lines = shuffled(
    banking77('train').map(row => row.text),
    1,
  );
  const test = shuffled(
    banking77('test').map(row => row.text),
    2,
  );
  return { tuning: lines.slice(0, 1000), train: lines.slice(1000), heldOut: test.slice(0, 1000) };
}

const MAN = ['man1', 'man2', 'man5', 'man7', 'man8'].map(section => join('/usr/share/man', section));

/** Pages of this machine's manual, one a unit: mixed and long, of a style that the base knows. Which there are depends on the machine. */
export function manual(): Texts {
  const pages = MAN.flatMap(folder => (existsSync(folder) ? readdirSync(folder).map(name => join(folder, name)) : []))
    // One tool's thousands of generated pages would be the whole corpus.
    .filter(path => path.endsWith('.gz') && !basename(path).startsWith('gcloud'))
    .sort()
    .map(path => plain(gunzipSync(readFileSync(path)).toString('utf8')))
    .filter(text => text.length > 600)
    // From the middle: the first lines of all pages say the same.
    .map(text => text.slice(300, 1300));
  const unique = shuffled([...new Set(pages)], 3);
  return { heldOut: unique.slice(0, 200), tuning: [], train: unique.slice(200) };
}

/** Running text of a roff page: requests, comments and font changes removed. */
function plain(roff: string): string {
  return roff
    .split('\n')
    .filter(line => !/^[.']/.test(line))
    .join(' ')
    .replace(/\\f(\(..|\[[^\]]*\]|.)|\\[&|^]|\\s[-+]?\d/g, '')
    .replace(/\\-/g, '-')
    .replace(/\\\(..|\\\[[^\]]*\]|\\[a-z]/g, ' ')
    .replace(/\s+/g, ' ')
    .trim();
}
