import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { readLoraGguf } from '../../src/learn/model/lora.ts';
import { openModel } from '../../src/learn/model/open.ts';
import { PUBLIC_SENTENCES } from '../../src/learn/training/public-text.ts';
import { ComputeWorker } from '../../src/learn/worker/client.ts';
import type { DocumentsInput, NoiseInput, TextScore } from '../../src/learn/worker/types.ts';
import { testFolder } from '../support/daemon.ts';
import { writeTinyHead, writeTinyLora, writeTinyModel } from '../support/tiny-model.ts';

const texts = PUBLIC_SENTENCES.slice(0, 6).map(text => text.slice(0, 20));
const nll = (scores: readonly TextScore[]) =>
  scores.reduce((sum, s) => sum + s.nll, 0) / scores.reduce((sum, s) => sum + s.tokens, 0);
const near = (a: number, b: number, tolerance: number) =>
  assert.ok(Math.abs(a - b) <= tolerance, `${a} is not within ${tolerance} of ${b}`);
const documents = PUBLIC_SENTENCES.slice(20, 60).map((text, i) => ({ unit: `u:${i % 10}`, text: text.slice(0, 24) }));
const noise: NoiseInput = {
  noiseMultiplier: 0.5,
  sampleRate: 0.5,
  steps: 4,
  clip: { kind: 'auto-s' },
  expectedUnits: 10,
  delta: 1e-6,
  seed: 'ab'.repeat(32),
};

test('scoring: order kept, long and empty texts, adapter scale 0 is the base, classification by head and by model', async t => {
  const folder = testFolder(t, 'jobs');
  const model = await writeTinyModel(folder, 'base', 1);
  const adapter = await writeTinyLora(model, join(folder, 'lora.gguf'), 2);
  const worker = new ComputeWorker({ threads: 2 });
  t.after(() => worker.close());
  const mixed = ['', 'a', ...texts, 'long '.repeat(300)];
  const scores = await worker.perplexity({ model }, mixed);
  assert.deepEqual(
    scores.map(s => s.tokens),
    mixed.map(text => Math.max(0, text.length - 1)),
  );
  assert.deepEqual(
    scores.slice(0, 2).map(s => [s.nll, s.first]),
    [
      [0, null],
      [0, null],
    ],
  );
  const alone = await worker.perplexity({ model }, [texts[3]!]);
  near(alone[0]!.nll, scores[5]!.nll, 1e-3);
  const off = await worker.perplexity({ model, adapter: { path: adapter, scale: 0 } }, texts);
  const on = await worker.perplexity({ model, adapter: { path: adapter, scale: 1 } }, texts);
  near(nll(off), nll(scores.slice(2, 8)), 1e-4);
  assert.ok(Math.abs(nll(on) - nll(off)) > 0.01);
  const favoured = await worker.perplexity({ model, logitBias: [[3 + 'e'.charCodeAt(0), 50]] }, ['aeeeeeee']);
  near(favoured[0]!.nll, 0, 1e-3);

  const labels = ['balance', 'transfer'];
  const heads = { intent: await writeTinyHead(model, folder, 'intent', labels, 3) };
  const byHead = await worker.classify({ model, heads }, 'intent', labels, texts);
  const turned = await worker.classify({ model, heads }, 'intent', [...labels].reverse(), texts);
  for (const [i, { scores: p, label }] of byHead.entries()) {
    near(p.balance! + p.transfer!, 1, 1e-5);
    assert.equal(label, p.balance! >= p.transfer! ? 'balance' : 'transfer');
    near(turned[i]!.scores.balance!, p.balance!, 1e-6);
  }
  const byModel = await worker.classify({ model, heads }, 'intent', [...labels, 'never learned'], texts.slice(0, 2));
  for (const { scores: p } of byModel)
    near(
      Object.values(p).reduce((a, b) => a + b, 0),
      1,
      1e-3,
    );
  await assert.rejects(worker.perplexity({ model: join(folder, 'none.gguf') }, texts), { code: 'not_found' });
});

test('a trained adapter moves the model; a second one on top is stacked exactly, and merging says the same', async t => {
  const folder = testFolder(t, 'jobs');
  const model = await writeTinyModel(folder, 'base', 1);
  const worker = new ComputeWorker({ threads: 2 });
  t.after(() => worker.close());
  const steps = { method: { kind: 'lora', rank: 2 }, noise: 'none' } as const;
  const input = { documents, sequence: 32, perUnit: 4, maxSeconds: 60, threads: 2, steps };
  const first = await worker.call('train-documents', { ...input, files: { model }, folder: join(folder, '1') });
  const one = { path: first.adapter!.file.path, scale: 1 };
  const second = await worker.call('train-documents', {
    ...input,
    files: { model, adapter: one },
    folder: join(folder, '2'),
  });
  const two = { path: second.adapter!.file.path, scale: 1 };
  assert.deepEqual([first.adapter!.rank, second.adapter!.rank, second.steps], [2, 4, 30]);
  assert.ok(first.change > 0 && first.check > 0);
  const trained = documents.map(d => d.text);
  const at = async (files: Parameters<typeof worker.perplexity>[0]) => nll(await worker.perplexity(files, trained));
  const before = await at({ model });
  const after = await at({ model, adapter: one });
  const both = await at({ model, adapter: two });
  assert.ok(after < before - 0.05 && both < after - 0.05, `${before}, ${after}, ${both}`);
  const merged = await worker.call('merge', {
    files: { model, adapter: two },
    out: join(folder, 'merged.gguf'),
  });
  near(await at({ model: merged.file.path }), both, 1e-4);
  const read = readLoraGguf(two.path, (await openModel(model)).config);
  assert.deepEqual([read.rank, read.alpha], [4, 4]);
});

test('private norm scales: the same seed makes the same release, another seed another; a time limit counts the steps taken', async t => {
  const folder = testFolder(t, 'jobs');
  const model = await writeTinyModel(folder, 'base', 1);
  const stepsWith = (noise: NoiseInput) => ({ method: { kind: 'norms', layers: 2 }, noise }) as const;
  const input = { files: { model }, documents, sequence: 32, perUnit: 4, maxSeconds: 60, threads: 2 };
  const train = async (name: string, change: Partial<DocumentsInput> = {}) => {
    // A worker of its own each time, as after a crash.
    const worker = new ComputeWorker({ threads: 2 });
    try {
      return await worker.call('train-documents', {
        ...{ ...input, steps: stepsWith(noise), folder: join(folder, name) },
        ...change,
      });
    } finally {
      await worker.close();
    }
  };
  const [a, b] = [await train('a'), await train('b')];
  assert.equal(a.model!.file.sha256, b.model!.file.sha256);
  const other = await train('c', { steps: stepsWith({ ...noise, seed: 'cd'.repeat(32) }) });
  assert.notEqual(a.model!.file.sha256, other.model!.file.sha256);
  const cut = await train('d', { maxSeconds: 0 });
  assert.deepEqual([a.steps, a.outOfTime, cut.steps, cut.outOfTime], [4, false, 1, true]);
});

test('killed in a step, the next attempt goes on from the state before it and makes the same release', async t => {
  const folder = testFolder(t, 'jobs');
  const model = await writeTinyModel(folder, 'base', 1);
  const input = { files: { model }, documents, sequence: 32, perUnit: 4, maxSeconds: 60, threads: 2 };
  const steps = { method: { kind: 'lora', rank: 1 }, noise: { ...noise, steps: 12 } } as const;
  const attempt = async (name: string, checkpoint: DocumentsInput['checkpoint'], killAfter = 99) => {
    let pid = 0;
    const worker = new ComputeWorker({
      threads: 2,
      onStart: of => {
        pid = of;
      },
    });
    const seen: number[] = [];
    const where = join(folder, name);
    try {
      const onProgress = (p: { stage: string; done: number }) => {
        if (p.stage !== 'steps') return;
        seen.push(p.done);
        if (p.done >= killAfter) process.kill(pid, 'SIGKILL');
      };
      const answer = worker.call('train-documents', { ...input, steps, folder: where, checkpoint }, { onProgress });
      return { seen, file: await answer.then(result => result.adapter!.file.sha256) };
    } catch (error) {
      assert.equal((error as { code?: string }).code, 'dependency');
      return { seen, file: undefined };
    } finally {
      await worker.close();
    }
  };
  const checkpoint = { path: join(folder, 'state.safetensors'), everySteps: 2 };
  assert.equal((await attempt('killed', checkpoint, 5)).file, undefined);
  const resumed = await attempt('resumed', checkpoint);
  assert.ok(resumed.seen[0]! > 2 && resumed.seen.at(-1) === 12, `${resumed.seen}`);
  assert.equal(resumed.file, (await attempt('whole', undefined)).file);
  // A row erased in between: what was kept belongs to another training, and is not gone on with.
  const fewer = documents.slice(0, -1).map(d => ({ ...d }));
  const worker = new ComputeWorker({ threads: 2 });
  t.after(() => worker.close());
  const anew = await worker.call('train-documents', {
    ...{
      ...input,
      documents: [...fewer, { ...documents.at(-1)!, text: 'other words stand here now' }],
      steps,
      checkpoint,
    },
    folder: join(folder, 'erased'),
  });
  assert.equal(anew.steps, 12);
});

test('cancelled while it trains: no file is left', async t => {
  const folder = testFolder(t, 'jobs');
  const model = await writeTinyModel(folder, 'base', 1);
  const worker = new ComputeWorker({ threads: 2 });
  t.after(() => worker.close());
  const stop = new AbortController();
  const out = join(folder, 'never');
  const training = worker.call(
    'train-documents',
    {
      files: { model },
      documents,
      steps: { method: { kind: 'norms', layers: 2 }, noise: { ...noise, steps: 500 } },
      sequence: 32,
      perUnit: 4,
      maxSeconds: 60,
      threads: 2,
      folder: out,
    },
    { signal: stop.signal, onProgress: ({ done }) => done > 1 && stop.abort() },
  );
  await assert.rejects(training, { code: 'canceled' });
  assert.equal(existsSync(out), false);
  assert.equal((await worker.perplexity({ model }, texts)).length, texts.length, 'the worker goes on');
});
