import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { run as augment } from '../../src/cli/augment.ts';
import { readFeedbackRows, readTrainRows } from '../../src/cli/train-data.ts';

const lines = (rows: readonly object[]): string => rows.map(row => `${JSON.stringify(row)}\n`).join('');
const refused = { code: 'invalid', field: 'user' };

test('a variant that learnd augment wrote is of the unit of its source, not a unit of its own', async t => {
  const folder = await mkdtemp(join(tmpdir(), 'learnd-rows-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const file = join(folder, 'rows.jsonl');
  const out = join(folder, 'varied.jsonl');
  const texts = ['My card was stolen yesterday evening', 'How much money is left on my account?'];
  await writeFile(file, lines(texts.map((text, i) => ({ text, label: ['lost', 'balance'][i] }))));
  const made = await augment({ file, out, label: 'label', count: 3 });
  assert.ok(made.variants >= 4);
  const rows = readTrainRows(out, { epsilon: 8 });
  assert.equal(rows.length, 2 + made.variants);
  assert.equal(new Set(rows.map(row => row.unit)).size, 2);
  assert.equal(rows[1]!.unit, rows[0]!.unit);
  const classified = readFeedbackRows(out, 'classify', { epsilon: 8 });
  assert.deepEqual(
    classified.map(row => row.unit),
    rows.map(row => row.unit),
  );
  // Variants of variants, and rows in another order: whose a variant is cannot be told.
  const again = join(folder, 'again.jsonl');
  await augment({ file: out, out: again, label: 'label', count: 1 });
  assert.throws(() => readTrainRows(again, { epsilon: 8 }), refused);
  const turned = join(folder, 'turned.jsonl');
  await writeFile(turned, lines([{ text: 'b', augmented: { source: 2, operation: 'swap' } }, { text: 'a' }]));
  assert.throws(() => readTrainRows(turned, { epsilon: 8 }), refused);
  assert.throws(() => readTrainRows(turned, { epsilon: 8, user: undefined }), refused);
  // Units mean nothing where no privacy is asked for, and a named user says whose it is.
  assert.equal(readTrainRows(turned, { epsilon: 'none' }).length, 2);
  const named = join(folder, 'named.jsonl');
  await writeFile(
    named,
    lines([
      { text: 'b', by: 'ana', augmented: { source: 2, operation: 'swap' } },
      { text: 'a', by: 'ana' },
    ]),
  );
  assert.deepEqual(
    readTrainRows(named, { epsilon: 8, user: 'by' }).map(row => row.unit),
    ['ana', 'ana'],
  );
  // What was written for a label alone is nobody's.
  const public_ = join(folder, 'public.jsonl');
  await writeFile(
    public_,
    lines([{ text: 'a' }, { text: 'c', augmented: { source: null, operation: 'back-generation' } }]),
  );
  assert.equal(new Set(readTrainRows(public_, { epsilon: 8 }).map(row => row.unit)).size, 2);
});
