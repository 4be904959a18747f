import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import { type EngineModel, loadEngineModel } from '../../src/learn/model/engine/model.ts';
import type { Example } from '../../src/learn/model/engine/units.ts';
import { openModel } from '../../src/learn/model/open.ts';
import type { Checkpoint } from '../../src/learn/model/types.ts';
import type { BesidePass } from '../../src/learn/training/beside.ts';
import {
  type ConstraintSpec,
  declaredConstraint,
  likeliestOf,
  probeExample,
  probeProbabilities,
  Terms,
} from '../../src/learn/training/constraints/index.ts';
import { trainToEnd } from '../../src/learn/training/trainer.ts';
import { measureConstraints } from '../../src/learn/worker/jobs/measure-constraints.ts';
import { writeTinyModel } from '../support/tiny-model.ts';

/** On a model of a token a byte, where every text of a short form can be tried. */
let folder: string;
let file: string;
let checkpoint: Checkpoint;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'learnd-patterns-'));
  file = await writeTinyModel(folder, 'tiny', 3);
  checkpoint = await openModel(file);
});
after(() => rm(folder, { recursive: true, force: true }));

const passOf = (model: EngineModel): BesidePass => ({
  model,
  trainable: { keys: new Set(), size: 0, from: 0, vocabulary: false, small: true },
  parameters: { keys: () => [], get: name => model.parameter(name), set: () => undefined },
  options: { maxTokens: 1024 },
  plan: undefined,
});
const seed = new Uint8Array(32).fill(4);

test('the likeliest text of a form is the likeliest of all of them, tried one by one', async () => {
  const model = loadEngineModel(checkpoint);
  const pass = passOf(model);
  const digits = ['0', '1', '2', '3'];
  for (const prompt of [undefined, 'code?']) {
    const all = digits.flatMap(a => digits.flatMap(b => ['', 'x'].map(x => `no ${a}${x}${b}.`)));
    const tried = await probeProbabilities(
      pass,
      all.map(text => probeExample(checkpoint, { text, ...(prompt !== undefined && { prompt }) }, 64)),
    );
    const pattern = { pattern: 'no [0-3]x?[0-3]\\.', ...(prompt !== undefined && { prompt }) };
    const found = await likeliestOf(pass, checkpoint, pattern);
    const [best, ...others] = await probeProbabilities(pass, found);
    const most = Math.max(...tried);
    assert.ok(Math.abs(best! - most) < 1e-4 * most, `${best} is not ${most}`);
    assert.ok(others.every(p => p <= best! * 1.0001));
    assert.equal(
      checkpoint.tokenizer.decode(found[0]!.tokens).slice(-all[tried.indexOf(most)]!.length),
      all[tried.indexOf(most)],
    );
  }
  await assert.rejects(likeliestOf(pass, checkpoint, { pattern: '\\d{4}' }), {
    field: 'pattern',
    message: /needs a prompt/,
  });
  model.dispose();
});

/** A secret that every unit gives away. */
async function learn(constraint: ConstraintSpec) {
  const model = loadEngineModel(checkpoint);
  const beside = new Terms({ constraints: [constraint], search: (pass, of) => likeliestOf(pass, checkpoint, of) });
  const unit: Example[] = [{ tokens: checkpoint.tokenizer.encode('key 4711') }];
  await trainToEnd({
    model,
    method: { kind: 'lora', rank: 4 },
    units: Array.from({ length: 16 }, () => unit),
    ...{ steps: 20, batch: 8, seed, beside },
    optimizer: { kind: 'adam', learningRate: 0.02 },
  });
  const [report] = beside.report();
  beside.dispose();
  model.dispose();
  return report!;
}

test('a secret of a known form, nowhere written in the policy: learned without the constraint, unlikely with it', async () => {
  const declared = (probability: number): ConstraintSpec =>
    declaredConstraint({ forbidden: { patterns: ['key \\d{4}'] }, probability, hard: true });
  const free = await learn(declared(0.999));
  assert.ok(free.after! > 100 * free.before! && free.after! > 1e-2, JSON.stringify(free));
  const held = await learn(declared(1e-6));
  assert.ok(held.met && held.after! <= 1e-6, JSON.stringify(held));
});

test('forms are measured on the files that are served; personal data brings its own', async () => {
  const spec = declaredConstraint({ forbidden: { personal: ['card'] }, probability: 0.5, hard: false });
  assert.ok(spec.kind === 'forbidden' && spec.patterns!.length === 2 && spec.probes.length === 0);
  const context = { signal: new AbortController().signal, progress: () => undefined, breathe: async () => undefined };
  const [value] = await measureConstraints(
    { files: { model: file }, base: file, constraints: [spec], threads: 2 } as never,
    context as never,
  );
  assert.ok(value! > 0 && value! < 1e-3, `${value}`);
});
