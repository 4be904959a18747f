import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import test from 'node:test';

/** The rooms, top to bottom: a file imports only from its own room and from rooms above it. Nothing else holds this list. */
const ROOMS = ['base', 'events', 'learn', 'store', 'loop', 'serve', 'console', 'cli'] as const;
/** Stages of the loop never import each other: they meet in store rows and event types. cycle.ts wires them. */
const STAGES = ['ingest', 'curate', 'monitor', 'policy', 'round', 'evaluate', 'registry', 'publish'] as const;
/** Pure functions that ingest applies to each row; curate has no state of its own. */
const STAGE_MAY_IMPORT: Record<string, readonly string[]> = { ingest: ['curate'] };
const LINES_AT_MOST = 400;

const root = resolve(import.meta.dirname, '..');
const files = readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' }).filter(f => f.endsWith('.ts'));
const source = (file: string): string => readFileSync(join(root, 'src', file), 'utf8');

function imports(file: string): string[] {
  const found = source(file).matchAll(
    /(?:^|\n)\s*(?:import|export)\b[^'"\n;]*?(?:from\s*)?['"](\.{1,2}\/[^'"]+)['"]|import\(\s*['"](\.{1,2}\/[^'"]+)['"]/g,
  );
  const multi = source(file).matchAll(/from\s+['"](\.{1,2}\/[^'"]+)['"]/g);
  const all = [...[...found].map(m => m[1] ?? m[2]!), ...[...multi].map(m => m[1]!)];
  return [...new Set(all)].map(target => relative(join(root, 'src'), resolve(root, 'src', dirname(file), target)));
}
const room = (file: string): string | undefined => (file.includes('/') ? file.split('/')[0] : undefined);

test('every file lives in a room', () => {
  const strays = files.filter(f => room(f) !== undefined && !(ROOMS as readonly string[]).includes(room(f)!));
  assert.deepEqual(strays, []);
  const top = files.filter(f => room(f) === undefined).sort();
  assert.deepEqual(top, ['daemon.ts', 'index.ts', 'main.ts']);
});

test('a file imports only from its own room and from rooms above it', () => {
  const wrong: string[] = [];
  for (const file of files) {
    const own = room(file);
    if (own === undefined) continue;
    for (const target of imports(file)) {
      const other = room(target);
      if (other === undefined || ROOMS.indexOf(other as never) > ROOMS.indexOf(own as never)) {
        if (!(own === 'cli' && other === undefined)) wrong.push(`${file} imports ${target}`);
      }
    }
  }
  assert.deepEqual(wrong, []);
});

test('stages of the loop do not import each other', () => {
  const wrong: string[] = [];
  for (const file of files) {
    const [, stage] = file.match(/^loop\/([^/]+)\//) ?? [];
    if (stage === undefined) continue;
    assert.ok((STAGES as readonly string[]).includes(stage), `unknown stage ${stage}`);
    for (const target of imports(file)) {
      const [, other] = target.match(/^loop\/([^/]+)/) ?? [];
      if (other === undefined || other === stage || STAGE_MAY_IMPORT[stage]?.includes(other)) continue;
      wrong.push(`${file} imports ${target}`);
    }
  }
  assert.deepEqual(wrong, []);
});

test('no file imports itself by way of others, types included', () => {
  const state = new Map<string, 'open' | 'done'>();
  const circles: string[] = [];
  const visit = (file: string, path: readonly string[]): void => {
    if (state.get(file) === 'done') return;
    if (state.get(file) === 'open') {
      circles.push([...path.slice(path.indexOf(file)), file].join(' -> '));
      return;
    }
    state.set(file, 'open');
    for (const target of imports(file)) visit(target, [...path, file]);
    state.set(file, 'done');
  };
  for (const file of files) visit(file, []);
  assert.deepEqual(circles, []);
});

test('learn knows no database, no network and no environment', () => {
  const banned = /from 'pg'|from 'kafkajs'|from 'ws'|from 'node:(http|https|net)'|process\.env/;
  // Downloading a base by its hub id is the one network act of the library.
  // Native TensorFlow reads its thread count from the environment, so its loader has to set it there.
  const allowed = new Set(['learn/model/hub.ts', 'learn/tensor/backend.ts']);
  const wrong = files.filter(f => f.startsWith('learn/') && !allowed.has(f) && banned.test(source(f)));
  assert.deepEqual(wrong, []);
});

test('SQL lives in store and migrations only', () => {
  const sql = /\b(select\s+[\w*,. ()"]+\s+from\s+\w|insert\s+into\s+\w|update\s+\w+\s+set\s|delete\s+from\s+\w)/i;
  const wrong = files
    .filter(f => !f.startsWith('store/'))
    .filter(f => sql.test(source(f).replace(/\/\*[\s\S]*?\*\/|\/\/.*/g, '')));
  assert.deepEqual(wrong, []);
});

test('kafkajs is imported by one file', () => {
  assert.equal(files.filter(f => /from 'kafkajs'/.test(source(f))).length, 1);
});

test('no file is longer than one idea', () => {
  const long = files.map(f => [f, source(f).split('\n').length] as const).filter(([, n]) => n > LINES_AT_MOST);
  assert.deepEqual(long, []);
});

test('no randomness that privacy could rest on, no swallowed errors', () => {
  const random = files.filter(f => /^(learn\/(privacy|training)|loop)\//.test(f) && /Math\.random\(/.test(source(f)));
  assert.deepEqual(random, []);
  const swallowed = files.filter(f => /catch\s*(\([^)]*\))?\s*\{\s*\}/.test(source(f)));
  assert.deepEqual(swallowed, []);
});

test('the lock file names no download address', () => {
  assert.equal(/"resolved": "https?:/.test(readFileSync(join(root, 'package-lock.json'), 'utf8')), false);
});
