import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { getLlama, LlamaLogLevel, type Token } from 'node-llama-cpp';
import { pruneByText } from '../../src/learn/compress/by-text.ts';
import { prune } from '../../src/learn/compress/prune.ts';
import { neuronScores, unevenWidths, WIDTH_METHODS } from '../../src/learn/compress/scores.ts';
import { slebLayers } from '../../src/learn/compress/sleb.ts';
import { sparsify, wandaNorms } from '../../src/learn/compress/sparsify.ts';
import { calibrationStatistics } from '../../src/learn/compress/statistics.ts';
import { padBatch } from '../../src/learn/model/engine/batch.ts';
import { forwardTokens } from '../../src/learn/model/engine/forward.ts';
import { headLogits } from '../../src/learn/model/engine/head.ts';
import { loadEngineModel, scoreTokens } from '../../src/learn/model/engine/index.ts';
import { writeModelGguf, writeSafetensors } from '../../src/learn/model/export.ts';
import { openModel } from '../../src/learn/model/open.ts';
import type { Checkpoint, ModelConfig, WeightSource } from '../../src/learn/model/types.ts';
import { tensorflow } from '../../src/learn/tensor/backend.ts';
import { relativeError, unpack, weightSource } from '../support/engine-golden.ts';
import { writeTinyModel } from '../support/tiny-model.ts';

type Packed = Parameters<typeof unpack>[0];
interface Golden {
  sequences: number[][];
  config: ModelConfig;
  weights: Record<string, Packed>;
  nll: number;
  layers: Array<
    Record<'meanAbs' | 'mean' | 'variance' | 'flap' | 'wanda' | 'magnitude' | 'standard' | 'bias', Packed> & {
      kept: number[];
    }
  >;
  influence: number[];
  flapNll: number;
  sleb: Array<{ layer: number; nll: number }>;
  wanda: Record<'0.5' | '2:4', { nll: number; q2: number[][]; down3: number[][] }>;
  magnitude: { q2: number[][] };
}
const golden = JSON.parse(readFileSync(new URL('../golden/prune.json', import.meta.url), 'utf8')) as Golden;
const source = { config: golden.config, weights: weightSource(golden.weights) };
const { sequences } = golden;
const folder = mkdtempSync(join(tmpdir(), 'learnd-prune-'));
test.after(() => rmSync(folder, { recursive: true }));

/** Nats a token of any model on the sequences. */
function nllOf(model: { config: ModelConfig; weights: WeightSource }): number {
  const engine = loadEngineModel(model);
  const scores = scoreTokens(engine, sequences);
  engine.dispose();
  return scores.reduce((sum, s) => sum + s.nll, 0) / scores.reduce((sum, s) => sum + s.tokens, 0);
}
const near = (found: number, expected: number, tolerance = 1e-5) =>
  assert.ok(Math.abs(found - expected) <= tolerance * Math.abs(expected), `${found}, expected ${expected}`);

test('statistics and scores are those of PyTorch and numpy', () => {
  const engine = loadEngineModel(source);
  const statistics = calibrationStatistics(engine, sequences);
  const before = tensorflow().memory().numTensors;
  calibrationStatistics(engine, sequences);
  assert.equal(tensorflow().memory().numTensors, before);
  engine.dispose();
  assert.equal(statistics.tokens, 39);
  for (const [n, expected] of golden.layers.entries()) {
    near(statistics.influence[n]!, golden.influence[n]!);
    for (const key of ['meanAbs', 'mean', 'variance'] as const)
      assert.ok(relativeError(Float32Array.from(statistics[key][n]!), unpack(expected[key]).data) < 1e-5, key);
    for (const method of ['flap', 'wanda', 'magnitude'] as const) {
      const scores = neuronScores(method, { ...source, statistics });
      assert.ok(relativeError(scores[n]!, unpack(expected[method]).data) < 1e-5, method);
    }
  }
});

test('FLAP: the neurons, the bias and the loss of the reference', () => {
  const pruned = pruneByText(source, () => loadEngineModel(source), sequences, { ffn: 32, method: 'flap' });
  assert.deepEqual(pruned.config.ffn, [32, 32, 32, 32, 32]);
  assert.equal(pruned.config.downBias, true);
  for (const [n, { kept, bias }] of golden.layers.entries()) {
    const up = unpack(golden.weights[`model.layers.${n}.mlp.up_proj.weight`]!).data;
    const narrow = pruned.weights.read(`model.layers.${n}.mlp.up_proj.weight`).data;
    assert.deepEqual(narrow, Float32Array.from(kept.flatMap(j => [...up.subarray(j * 16, j * 16 + 16)])));
    const found = pruned.weights.read(`model.layers.${n}.mlp.down_proj.bias`).data;
    assert.ok(relativeError(found, unpack(bias).data) < 1e-4);
  }
  near(nllOf(pruned), golden.flapNll);
  assert.ok(pruned.parameters[1] < pruned.parameters[0]);
});

test('SLEB: the layers and losses of the reference; the first and the last stay', () => {
  const engine = loadEngineModel(source);
  const found = slebLayers(engine, sequences, 2);
  engine.dispose();
  assert.deepEqual(
    found.map(d => d.layer),
    golden.sleb.map(d => d.layer),
  );
  for (const [n, { nll }] of golden.sleb.entries()) near(found[n]!.nll, nll);
  const pruned = pruneByText(source, () => loadEngineModel(source), sequences, { dropLayers: 2, layersBy: 'sleb' });
  near(nllOf(pruned), golden.sleb[1]!.nll);
  assert.equal(pruned.config.layers, 3);
});

test('unstructured and 2:4: the zeros of Wanda, block by block on pruned inputs, and of magnitude', () => {
  const zeros = (weights: WeightSource, name: string): number[][] => {
    const { shape, data } = weights.read(name);
    const [rows, columns] = shape as [number, number];
    return Array.from({ length: rows }, (_, r) =>
      Array.from({ length: columns }, (_, c) => c).filter(c => data[r * columns + c] === 0),
    );
  };
  const q2 = 'model.layers.2.self_attn.q_proj.weight';
  for (const sparsity of [0.5, '2:4'] as const) {
    const engine = loadEngineModel(source);
    const plan = { sparsity, method: 'wanda' } as const;
    const norms = wandaNorms(engine, source.weights, sequences, plan);
    engine.dispose();
    const weights = sparsify(source.weights, plan, norms);
    const expected = golden.wanda[`${sparsity}`];
    assert.deepEqual(zeros(weights, q2), expected.q2);
    assert.deepEqual(zeros(weights, 'model.layers.3.mlp.down_proj.weight'), expected.down3);
    near(nllOf({ config: source.config, weights }), expected.nll);
  }
  const magnitude = sparsify(source.weights, { sparsity: 0.5, method: 'magnitude' });
  assert.deepEqual(zeros(magnitude, q2), golden.magnitude.q2);
  assert.deepEqual(magnitude.shape(q2), [16, 16]);
  const random = (seed: string) => sparsify(source.weights, { sparsity: '2:4', method: 'random', seed }).read(q2).data;
  assert.deepEqual(random('a'), random('a'));
  assert.notDeepEqual(random('a'), random('b'));
  assert.throws(() => sparsify(source.weights, { sparsity: 1.5, method: 'magnitude' }), { field: 'sparsity' });
});

test('uneven widths: whole steps, the sum kept, more to the layers whose neurons stand out', () => {
  const scores = golden.layers.map(layer => unpack(layer.flap).data);
  assert.deepEqual(unevenWidths(scores, 32, 32), [32, 32, 32, 32, 32]);
  const widths = unevenWidths(scores, 40, 8);
  assert.equal(
    widths.reduce((a, b) => a + b, 0),
    200,
  );
  // The reference: neurons of each layer among the 200 best of the standardised scores.
  const standard = golden.layers.flatMap((layer, n) => [...unpack(layer.standard).data].map(score => ({ n, score })));
  const best = standard.sort((a, b) => b.score - a.score).slice(0, 200);
  for (const [n, width] of widths.entries()) {
    const wanted = best.filter(b => b.n === n).length;
    assert.ok(Math.abs(width - wanted) < 16 && width % 8 === 0 && width <= 64, `layer ${n}: ${width} for ${wanted}`);
  }
});

test('every width method: a smaller model that llama.cpp runs to the same logits as the engine', {
  timeout: 60_000,
}, async () => {
  const whole = await openModel(
    await writeTinyModel(folder, 'deep', 21, { config: { layers: 4, ffn: [128, 128, 128, 128] } }),
  );
  const text = [
    'The tide was low and the boats lay on the sand.',
    'A kettle sang in the kitchen.',
    'Seven geese flew over.',
  ];
  const tokens = text.map(line => whole.tokenizer.encode(line));
  const llama = await getLlama({ build: 'never', gpu: false, logLevel: LlamaLogLevel.error });
  const seen = new Map<string, Float32Array>();
  for (const [method, uneven] of [...WIDTH_METHODS.map(m => [m, false] as const), ['flap', true] as const]) {
    const pruned = pruneByText(whole, () => loadEngineModel(whole), tokens, {
      ...{ ffn: 64, uneven, dropLayers: 1, layersBy: 'influence', method, seed: 's' },
    });
    const out = join(folder, `${method}-${uneven}.gguf`);
    await writeModelGguf({ ...whole, config: pruned.config, weights: pruned.weights }, out, { type: 'f32' });
    const small = await openModel(out);
    assert.equal(small.config.layers, 3);
    assert.equal(
      small.config.ffn.reduce((a, b) => a + b, 0),
      192,
    );
    assert.equal(small.config.downBias, method === 'flap' ? true : undefined);
    const own = engineLogits(small, tokens[0]!);
    const theirs = await llamaLogProbabilities(llama, out, tokens[0]!, own);
    assert.ok(theirs < 1e-4, `${method}: largest difference of a log probability ${theirs}`);
    seen.set(`${method} ${uneven}`, own);
  }
  assert.ok(
    new Set([...seen.values()].map(logits => logits.join())).size >= WIDTH_METHODS.length,
    'each in its own way',
  );
  await llama.dispose();
});

/** Logits after the last token. */
function engineLogits(model: Checkpoint, tokens: readonly number[]): Float32Array {
  const engine = loadEngineModel(model);
  const batch = padBatch([tokens], model.config);
  const hidden = forwardTokens(engine, batch);
  const logits = headLogits(engine, hidden, Int32Array.of(tokens.length - 1));
  const data = Float32Array.from(logits.dataSync());
  hidden.dispose();
  logits.dispose();
  engine.dispose();
  return data;
}

/** The largest difference to llama.cpp's next-token log probabilities, of those it lists above 1e-6. */
async function llamaLogProbabilities(
  llama: Awaited<ReturnType<typeof getLlama>>,
  path: string,
  tokens: readonly number[],
  logits: Float32Array,
): Promise<number> {
  const model = await llama.loadModel({ modelPath: path, checkTensors: true });
  // Its own rounding of keys, values and flash attention to 16 bits would be 1e-2 of this random model's logits.
  const context = await model.createContext({
    ...{ contextSize: 256, threads: 1, flashAttention: false },
    ...{ experimentalKvCacheKeyType: 'F32', experimentalKvCacheValueType: 'F32' },
  });
  const items = tokens.map((token, i) =>
    i === tokens.length - 1 ? ([token as Token, { generateNext: { probabilities: true } }] as const) : (token as Token),
  );
  const output = await context.getSequence().controlledEvaluate(items as never);
  const probabilities = output.at(-1)!.next.probabilities!;
  await context.dispose();
  await model.dispose();
  const top = logits.reduce((a, b) => Math.max(a, b));
  const total = Math.log(logits.reduce((sum, x) => sum + Math.exp(x - top), 0)) + top;
  let worst = 0;
  for (const [token, p] of probabilities)
    if (p > 1e-6) worst = Math.max(worst, Math.abs(Math.log(p) - (logits[token]! - total)));
  assert.ok(probabilities.size > 100);
  return worst;
}

test('a FLAP model as a folder for transformers, opened again, is the same model', async () => {
  const whole = await openModel(await writeTinyModel(folder, 'tiny', 22));
  const tokens = [whole.tokenizer.encode('Public words for the means.')];
  const pruned = pruneByText(whole, () => loadEngineModel(whole), tokens, { ffn: 32, method: 'flap' });
  const dir = join(folder, 'hf');
  await writeSafetensors({ ...whole, config: pruned.config, weights: pruned.weights }, dir);
  const again = await openModel(dir);
  assert.deepEqual(again.config, pruned.config);
  for (const name of pruned.weights.names()) assert.deepEqual(again.weights.read(name), pruned.weights.read(name));
});

test('what cannot be pruned is refused by name', () => {
  const importance = { ffn: [], blockInfluence: new Float32Array(5) };
  assert.throws(() => prune(source, importance, { layers: [0] }), { code: 'invalid', field: 'layers' });
  assert.throws(() => neuronScores('flap', source), { code: 'invalid', field: 'calibration' });
  const never = () => assert.fail('no model is loaded for this');
  assert.throws(() => pruneByText(source, never, [], {}), { code: 'invalid', field: 'prune' });
  const qwen = { ...source, config: { ...source.config, attentionBias: true } };
  assert.throws(() => pruneByText(qwen, never, [], { ffn: 32, method: 'flap' }), { code: 'invalid', field: 'method' });
  assert.equal(pruneByText(source, never, [], { ffn: 32, method: 'magnitude' }).calibrationTokens, 0);
});
