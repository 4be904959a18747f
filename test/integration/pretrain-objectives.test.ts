import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { attentionBatch } from '../../src/learn/model/engine/batch.ts';
import { forwardTokens } from '../../src/learn/model/engine/forward.ts';
import { loadEngineModel, scoreTokens } from '../../src/learn/model/engine/index.ts';
import { disposeGradients } from '../../src/learn/model/engine/sinks.ts';
import { clippedUnitGradients, type Example, meanGradient } from '../../src/learn/model/engine/units.ts';
import type { ModelConfig } from '../../src/learn/model/types.ts';
import { streamFor } from '../../src/learn/privacy/index.ts';
import { mapSource, pretrain } from '../../src/learn/training/pretrain.ts';
import { maskedExample, packDocuments, pretrainExamples } from '../../src/learn/training/pretrain-examples.ts';
import { prepareTraining } from '../../src/learn/training/trainables.ts';
import { lcgWeights } from '../support/lcg-weights.ts';

interface Golden {
  run: {
    config: ModelConfig;
    seed: number;
    train: string[];
    held: string[];
    sequence: number;
    separator: number;
    steps: number;
    rate: number;
    warmup: number;
    floor: number;
    losses: number[];
    bitsPerByte: number;
    packed: { tokens: number[]; segments: number[] }[];
  };
  gradients: {
    config: ModelConfig;
    seed: number;
    cases: {
      examples: Example[];
      loss: number;
      gradients: Record<string, { norm: number; first: number[]; sum: number }>;
    }[];
  };
}
const golden: Golden = JSON.parse(readFileSync(new URL('../golden/pretrain.json', import.meta.url), 'utf8'));
const seed = new Uint8Array(32).fill(9);
const bytes = (text: string): number[] => [...Buffer.from(text)];

test('100 steps reach the losses and the bits per byte of PyTorch', { timeout: 120_000 }, async t => {
  const { run } = golden;
  assert.deepEqual(packDocuments(run.train.slice(0, 3).map(bytes), { sequenceLength: 64, separator: 256 }), run.packed);
  const sequences = packDocuments(run.train.map(bytes), { sequenceLength: run.sequence, separator: run.separator });
  const work = pretrain({
    config: run.config,
    documents: run.train.map(bytes),
    separator: run.separator,
    sequenceLength: run.sequence,
    batch: sequences.length,
    steps: run.steps,
    learningRate: run.rate,
    schedule: { kind: 'cosine', warmup: run.warmup, floor: run.floor },
    weights: lcgWeights(run.config, run.seed),
    seed,
  });
  let next = await work.next();
  while (!next.done) next = await work.next();
  const { losses, weights } = next.value;
  const worst = Math.max(...losses.map((loss, i) => Math.abs(loss! - run.losses[i]!) / run.losses[i]!));
  const model = loadEngineModel({ config: run.config, weights: mapSource(weights) });
  const held = packDocuments(run.held.map(bytes), { sequenceLength: run.sequence, separator: run.separator });
  const trainable = prepareTraining(model, { kind: 'full' }, streamFor(seed, 'x')).trainable;
  const examples = pretrainExamples(
    held,
    { kind: 'causal' },
    { vocabSize: 258, special: new Set() },
    1,
    streamFor(seed, 'y'),
  );
  const { nll, gradients } = await meanGradient(model, examples, trainable, { maxTokens: 2048 });
  disposeGradients(gradients);
  model.dispose();
  const bits = nll / Math.LN2 / run.held.reduce((sum, text) => sum + bytes(text).length, 0);
  t.diagnostic(`bits per byte ${bits} here, ${run.bitsPerByte} in PyTorch; losses at most ${worst} apart (relative)`);
  assert.ok(Math.abs(bits / run.bitsPerByte - 1) < 0.01);
  assert.ok(worst < 0.02);
});

test('gradients of gaps, filled from both sides and from the output before, are PyTorch`s', async () => {
  const { config, seed: start, cases } = golden.gradients;
  for (const { examples, loss, gradients: expected } of cases) {
    const model = loadEngineModel({ config, weights: lcgWeights(config, start) });
    const { trainable } = prepareTraining(model, { kind: 'full' }, streamFor(seed, 'x'));
    const options = { maxTokens: 1024 };
    const { gradients, nll, tokens } = await meanGradient(model, examples, trainable, options);
    assert.ok(Math.abs(nll / tokens / loss - 1) < 1e-5, `${nll / tokens} ${loss}`);
    for (const [name, { norm, first }] of Object.entries(expected)) {
      const found = gradients.get(name)!.dataSync();
      assert.ok(Math.abs(Math.hypot(...found) - norm) < 1e-5 + 1e-3 * norm, name);
      first.forEach((value, i) => {
        assert.ok(Math.abs(found[i]! - value) < 1e-6 + 1e-3 * norm, `${name} ${i}`);
      });
    }
    // The private way to the same sum: one unit of both sequences, each counting by its own mean.
    const unit = await clippedUnitGradients(model, [examples], trainable, () => 1, options);
    assert.ok(Math.abs(unit.nll - nll) < 1e-4 * nll);
    disposeGradients(gradients);
    disposeGradients(unit.gradients);
    model.dispose();
  }
});

test('a document packed with others gives what it gives alone', () => {
  const { config, seed: start } = golden.gradients;
  const model = loadEngineModel({ config, weights: lcgWeights(config, start) });
  const [a, b] = [
    [3, 9, 27, 1, 4],
    [12, 36, 7, 21, 30, 5],
  ];
  const alone = forwardTokens(model, attentionBatch([{ tokens: b }], config));
  const packed = forwardTokens(
    model,
    attentionBatch([{ tokens: [...a, ...b], segments: [...a.map(() => 0), ...b.map(() => 1)] }], config),
  );
  const rows = packed.dataSync().slice(a.length * config.hidden);
  alone.dataSync().forEach((value, i) => {
    assert.ok(Math.abs(value - rows[i]!) < 1e-5);
  });
  model.dispose();
});

test('gaps: 15% asked for, 80% masked, 10% replaced, separators left alone', () => {
  const tokens = Array.from({ length: 20_000 }, (_, i) => (i % 50 === 0 ? 0 : 2 + (i % 30)));
  const segments = tokens.map(() => 0);
  const masking = { maskId: 1, vocabSize: 40, special: new Set([0, 1]), bidirectional: true, shifted: false };
  const example = maskedExample({ tokens, segments }, masking, streamFor(seed, 'gaps'));
  const chosen = example.targets!.flatMap((target, t) => (target >= 0 ? [t] : []));
  assert.ok(Math.abs(chosen.length / (20_000 * 0.98) - 0.15) < 0.01);
  const share = (test: (t: number) => boolean) => chosen.filter(test).length / chosen.length;
  assert.ok(Math.abs(share(t => example.tokens[t] === 1) - 0.8) < 0.03);
  assert.ok(Math.abs(share(t => example.tokens[t] !== 1 && example.tokens[t] !== tokens[t]) - 0.1) < 0.02);
  assert.ok(chosen.every(t => tokens[t] !== 0 && example.targets![t] === tokens[t]));
  const shifted = maskedExample({ tokens, segments }, { ...masking, shifted: true }, streamFor(seed, 'gaps'));
  assert.ok(shifted.targets!.every((target, t) => target < 0 || target === tokens[t + 1]));
});

test('the mix keeps its share of sequences with gaps in each pass', () => {
  const packed = packDocuments(
    Array.from({ length: 40 }, (_, d) => Array.from({ length: 20 }, (_, t) => 2 + ((d + t) % 30))),
    { sequenceLength: 22, separator: 0 },
  );
  const vocabulary = { vocabSize: 40, special: new Set([0, 1]) };
  const objective = { kind: 'mixed', maskId: 1, share: 0.25 } as const;
  const examples = pretrainExamples(packed, objective, vocabulary, 4, streamFor(seed, 'mix'));
  assert.equal(examples.length, 160);
  for (let copy = 0; copy < 4; copy++) {
    const gaps = examples.slice(copy * 40, copy * 40 + 40).filter(e => e.targets !== undefined).length;
    assert.ok(Math.abs(gaps - 10) <= 1, `${gaps} of 40`);
  }
  assert.throws(() => pretrainExamples(packed, { ...objective, share: 0 }, vocabulary, 1, streamFor(seed, 'm')), {
    field: 'masked_share',
  });
});

test('one model learns both from the mix: next words and gaps', { timeout: 60_000 }, async () => {
  const words = ['ann', 'bob', 'cid'];
  const code = (text: string) => [...text].map(c => 2 + (c === ' ' ? 0 : c.charCodeAt(0) - 96));
  const documents = Array.from({ length: 120 }, (_, i) => code(`${words[i % 3]} likes ${words[(i + 1) % 3]}`));
  const config: ModelConfig = {
    ...golden.gradients.config,
    vocabSize: 30,
    hidden: 32,
    headDim: 8,
    ffn: [64, 64],
    contextLength: 64,
  };
  const work = pretrain({
    ...{ config, documents, separator: 0, seed, sequenceLength: 40, batch: 16, steps: 120, learningRate: 1e-2 },
    objective: { kind: 'mixed', maskId: 1, share: 0.5 },
  });
  let next = await work.next();
  while (!next.done) next = await work.next();
  const model = loadEngineModel({ config, weights: mapSource(next.value.weights) });
  const [said] = scoreTokens(model, [[0, ...code('ann likes bob')]]);
  assert.ok(said!.nll / said!.tokens < 0.5, `${said!.nll / said!.tokens} nats a letter`);
  // The name depends on the first word alone: its letters are found although one is hidden.
  const gap = [0, ...code('cid likes ann')];
  const at = gap.length - 2;
  const seen = gap.map((token, t) => (t === at ? 1 : token));
  const targets = gap.map((_, t) => (t === at - 1 ? gap[at]! : -1));
  const { trainable } = prepareTraining(model, { kind: 'full' }, streamFor(seed, 'x'));
  const { nll, gradients } = await meanGradient(model, [{ tokens: seen, targets }], trainable, { maxTokens: 64 });
  disposeGradients(gradients);
  assert.ok(nll < 1, `${nll} nats for the gap`);
  model.dispose();
});
