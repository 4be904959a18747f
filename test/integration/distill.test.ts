import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { cacheTargets, distill, distillExamples } from '../../src/learn/compress/distill.ts';
import { gkdHead, klHead } from '../../src/learn/compress/distill-head.ts';
import { sampleContinuations } from '../../src/learn/compress/sample.ts';
import { lossBackward } from '../../src/learn/model/engine/backward.ts';
import { attentionBatch, scoredRows } from '../../src/learn/model/engine/batch.ts';
import { loadEngineModel } from '../../src/learn/model/engine/index.ts';
import { disposeGradients, SumSink } from '../../src/learn/model/engine/sinks.ts';
import type { Example } from '../../src/learn/model/engine/units.ts';
import type { ModelConfig } from '../../src/learn/model/types.ts';
import { streamFor } from '../../src/learn/privacy/index.ts';
import { tensorflow } from '../../src/learn/tensor/backend.ts';
import { lcgWeights } from '../support/lcg-weights.ts';

interface Golden {
  config: ModelConfig;
  width: number;
  teacher: number;
  student: number;
  sequences: number[][];
  cases: {
    kind: 'kl' | 'gkd';
    temperature: number;
    labels: number;
    topK: number;
    beta: number;
    losses: number[];
    gradients: Record<string, { norm: number; first: number[] }>;
  }[];
}
const golden: Golden = JSON.parse(readFileSync(new URL('../golden/distill.json', import.meta.url), 'utf8'));
const seed = new Uint8Array(32).fill(4);
const load = (start: number) =>
  loadEngineModel({ config: golden.config, weights: lcgWeights(golden.config, start, golden.width) });

test('divergences at temperatures, of k tokens and the rest, and of GKD, with all gradients, are PyTorch`s', async () => {
  const teacher = load(golden.teacher);
  const student = load(golden.student);
  const examples: Example[] = golden.sequences.map(tokens => ({ tokens }));
  const rows = examples.reduce((sum, e) => sum + e.tokens.length - 1, 0);
  const batch = attentionBatch(examples, golden.config);
  const scored = scoredRows(batch, () => 1 / rows);
  const before = tensorflow().memory().numTensors;
  for (const spec of golden.cases) {
    const { temperature, labels, topK } = spec;
    const cache =
      spec.kind === 'kl' ? await cacheTargets({ model: teacher }, examples, { temperature, topK }) : undefined;
    const targets = cache && examples.map(e => cache.get(e)!);
    const head = targets
      ? klHead(
          {
            k: topK,
            tokens: Int32Array.from(targets.flatMap(t => [...t.tokens])),
            probabilities: Float32Array.from(targets.flatMap(t => [...t.probabilities])),
          },
          { temperature, labels },
        )
      : gkdHead({ model: teacher }, batch, spec.beta);
    const sink = new SumSink(new Set(student.parameterNames()));
    const losses = lossBackward(student, batch, scored, sink, { vocabulary: true, head });
    const what = JSON.stringify({ ...spec, losses: 0, gradients: 0 });
    spec.losses.forEach((loss, i) => {
      assert.ok(Math.abs(losses[i]! - loss) < 1e-4 * Math.max(1, loss), `${what}: ${losses[i]} for ${loss}`);
    });
    for (const [name, { norm, first }] of Object.entries(spec.gradients)) {
      const found = sink.gradients.get(name)!.dataSync();
      assert.ok(Math.abs(Math.hypot(...found) - norm) < 1e-6 + 2e-3 * norm, `${what} ${name}`);
      first.forEach((value, i) => {
        assert.ok(Math.abs(found[i]! - value) < 1e-6 + 2e-3 * norm, `${what} ${name} ${i}`);
      });
    }
    disposeGradients(sink.gradients);
  }
  assert.ok(tensorflow().memory().numTensors - before < 12, 'nothing is left behind but tables');
  teacher.dispose();
  student.dispose();
});

/** Divergence of the student from the teacher over the examples, nats a token. */
async function divergence(teacher: ReturnType<typeof load>, student: ReturnType<typeof load>, examples: Example[]) {
  const cache = await cacheTargets({ model: teacher }, examples, { topK: golden.config.vocabSize });
  let sum = 0;
  let rows = 0;
  for (const example of examples) {
    const batch = attentionBatch([example], golden.config);
    const scored = scoredRows(batch, () => 1);
    const head = klHead(cache.get(example)!, { temperature: 1, labels: 0 });
    const sink = new SumSink(new Set());
    for (const loss of lossBackward(student, batch, scored, sink, { head })) sum += loss;
    rows += scored.rows.length;
  }
  return sum / rows;
}

for (const way of ['cached', 'on-policy'] as const)
  test(`${way}: the student comes to say what the teacher says`, { timeout: 60_000 }, async t => {
    const teacher = load(golden.teacher);
    const student = load(golden.student);
    const stream = streamFor(seed, 'text');
    const documents = Array.from({ length: 24 }, () => Array.from({ length: 20 }, () => stream.below(48)));
    const examples = distillExamples(documents, 20, undefined);
    const held = Array.from(
      { length: 6 },
      (): Example => ({ tokens: Array.from({ length: 20 }, () => stream.below(48)) }),
    );
    const first = await divergence(teacher, student, held);
    const work = distill({
      student,
      examples,
      from:
        way === 'cached'
          ? {
              kind: way,
              cache: await cacheTargets({ model: teacher }, examples, { topK: 16 }),
              temperature: 1,
              labels: 0,
            }
          : {
              kind: 'teacher',
              teacher: { model: teacher },
              share: 0.5,
              beta: 0.5,
              tokens: 12,
              prompt: 4,
              end: undefined,
            },
      name: 'test',
      ...{ steps: 60, batch: 8, learningRate: 1e-2, seed },
    });
    let next = await work.next();
    while (!next.done) next = await work.next();
    const last = await divergence(teacher, student, held);
    t.diagnostic(`${first.toFixed(3)} -> ${last.toFixed(3)} nats a token on text not trained on`);
    assert.ok(last < 0.75 * first);
    teacher.dispose();
    student.dispose();
  });

test('continuations are drawn from the model: a likely token is as frequent as it is likely', () => {
  const model = load(golden.teacher);
  const tf = tensorflow();
  const bias = tf.tensor1d(Float32Array.from({ length: 48 }, (_, i) => (i < 2 ? 30 + (i === 0 ? Math.log(3) : 0) : 0)));
  const logitFree = { tokens: 1, end: undefined, tokenBias: bias };
  const drawn = sampleContinuations(
    model,
    Array.from({ length: 400 }, () => [5, 9]),
    logitFree,
    streamFor(seed, 'draw'),
  );
  assert.ok(drawn.every(sequence => sequence.length === 3 && sequence[2]! < 2));
  const again = sampleContinuations(model, [[5, 9]], { tokens: 4, end: 0, tokenBias: bias }, streamFor(seed, 'end'));
  assert.ok(again[0]!.length <= 6 && again[0]!.slice(2, -1).every(token => token !== 0));
  bias.dispose();
  model.dispose();
});
