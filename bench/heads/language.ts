/**
 * The language model as a classifier, beside the head: LoRA on its last blocks by DP-SGD, the same users and budget, scored as it is
 * served where a task has no head (llama/label-scorer.ts). Labels are not listed in the prompt (a list of 15 makes a row four times
 * as long): training and scoring both take the prompt of a context that has no room for it.
 * `-- heads language [--rank 1] [--layers 6] [--steps 12] [--targets q,v | all] [--users-per-step 100] [--epsilon 8,none]`.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { cacheFolder } from '../../src/base/settings.ts';
import { openGguf } from '../../src/learn/llama/index.ts';
import { LabelScorer } from '../../src/learn/llama/label-scorer.ts';
import { labelPrompt, labelTrie, type TrieNode } from '../../src/learn/llama/label-trie.ts';
import { weightedF1 } from '../../src/learn/metrics/f1.ts';
import { resolveBase } from '../../src/learn/model/base.ts';
import { loadEngineModel } from '../../src/learn/model/engine/index.ts';
import { type Example, HiddenCache } from '../../src/learn/model/engine/units.ts';
import { writeLoraGguf } from '../../src/learn/model/export.ts';
import { openModel } from '../../src/learn/model/open.ts';
import { makePlan } from '../../src/learn/privacy/index.ts';
import { tensorflow } from '../../src/learn/tensor/backend.ts';
import type { Method } from '../../src/learn/training/trainables.ts';
import { trainToEnd } from '../../src/learn/training/trainer.ts';
import { banking77 } from '../banking77.ts';
import type { BenchOptions, Row } from '../kit.ts';
import { featureSet } from './features.ts';
import { ours } from './ours.ts';
import { taskOf } from './split.ts';

const DELTA = 1e-5;
const INTENTS = 15;
const USERS = 300;
/** Too small for a list of the labels. */
const CONTEXT = 128;

export async function language(folder: string, models: string, { quick, log, args }: BenchOptions): Promise<Row[]> {
  const { values } = parseArgs({
    args: args.slice(1),
    options: {
      rank: { type: 'string', default: '1' },
      layers: { type: 'string', default: '6' },
      steps: { type: 'string', default: quick ? '2' : '12' },
      targets: { type: 'string', default: 'q,v' },
      'users-per-step': { type: 'string', default: quick ? '20' : '100' },
      epsilon: { type: 'string', default: '8,none' },
    },
  });
  tensorflow({ threads: Number(process.env.TF_NUM_INTRAOP_THREADS ?? 2) });
  const set = await featureSet(folder, models, log);
  const task = taskOf(set, { intents: INTENTS, users: USERS, seed: 0 });
  const [train, test] = [banking77('train'), banking77('test').filter(row => task.labels.includes(row.label))];
  const base = await resolveBase('smollm2-135m', { cacheDir: cacheFolder() });
  const checkpoint = await openModel(base.path);
  const model = loadEngineModel(checkpoint);
  const { tokenizer } = checkpoint;
  const prompt = labelPrompt(task.labels, { tokenize: text => tokenizer.encode(text), contextSize: CONTEXT });
  const root = labelTrie(prompt.names, prompt.terminator);
  const example = (row: number): Example => {
    const { text, label } = train[row]!;
    const before = prompt.prompt(text);
    const path = choices(root, task.labels.indexOf(label));
    return {
      tokens: [...before, ...path.map(step => step.token)],
      mask: [...before.map(() => false), ...path.map(step => step.choice)],
    };
  };
  const units = task.rows.map(rows => rows.map(example));
  const tokens = units.flat().reduce((sum, { tokens: of }) => sum + of.length, 0);
  const layers = Number(values.layers);
  const method: Method = {
    ...{ kind: 'lora', rank: Number(values.rank), layers },
    ...(values.targets === 'q,v' && { targets: ['self_attn.q_proj', 'self_attn.v_proj'] as const }),
  };
  const cache = new HiddenCache(2 ** 31, units.flat(), model.config.hidden, 1024);
  const sampleRate = Number(values['users-per-step']) / USERS;
  const steps = Number(values.steps);
  const scratch = mkdtempSync(join(tmpdir(), 'learnd-bench-language-'));
  const served = await openGguf(base.path);
  const f1 = async (adapter?: string): Promise<number> => {
    const generator = await served.createGenerator({
      ...{ contextSize: CONTEXT, sequences: 1, batchSize: 64 },
      ...(adapter !== undefined && { adapter: { path: adapter, scale: 1 } }),
    });
    const asked = quick ? test.slice(0, 30) : test;
    const found = await new LabelScorer(served, generator).classify(
      asked.map(row => row.text),
      task.labels,
    );
    await generator.dispose();
    const best = found.map(scores => task.labels[scores.indexOf(Math.max(...scores))]!);
    return weightedF1(
      asked.map(row => row.label),
      best,
    ).weighted!;
  };
  const rows: Row[] = [];
  const report = (what: string, value: number, detail: string): void => {
    rows.push({ what, value, unit: 'F1', detail });
    log(`${what}: ${value.toFixed(3)}; ${detail}`);
  };
  try {
    report(
      'label scoring, nothing trained',
      await f1(),
      `${units.length} users, ${tokens} tokens, ${test.length} test texts`,
    );
    for (const said of values.epsilon.split(',')) {
      const epsilon = said === 'none' ? null : Number(said);
      report(`head, epsilon ${said}`, await ours(set, task, { epsilon, delta: DELTA }), 'the same users');
      const seed = new Uint8Array(32).fill(1);
      const plan = makePlan({
        ...{
          units: USERS,
          expectedUnits: USERS,
          sampleRate,
          steps,
          delta: DELTA,
          clip: { kind: 'auto-s' },
          unit: 'user',
          seed,
        },
        ...(epsilon === null ? { noiseMultiplier: 1e-9 } : { epsilon }),
      });
      const started = performance.now();
      const { adapter } = await trainToEnd(
        { model, units, method, plan, cache, seed },
        ({ step, loss, tokensPerSecond }) =>
          log(
            `LoRA, epsilon ${said}: step ${step} of ${steps}, loss ${loss?.toFixed(3)}, ${tokensPerSecond.toFixed(0)} tokens/s`,
          ),
      );
      const file = join(scratch, `${said}.gguf`);
      await writeLoraGguf(adapter!, checkpoint, file);
      const numbers = [...adapter!.pairs.values()].reduce((sum, { a, b }) => sum + a.data.length + b.data.length, 0);
      const noise = epsilon === null ? 'no noise' : `noise multiplier ${plan.noiseMultiplier.toFixed(3)}`;
      report(
        `label scoring, LoRA, epsilon ${said}`,
        await f1(file),
        `${numbers} numbers, ${noise}, ${((performance.now() - started) / 1000).toFixed(0)} s`,
      );
    }
  } finally {
    model.dispose();
    await served.dispose();
    rmSync(scratch, { recursive: true, force: true });
  }
  return rows;
}

/** The tokens of a label, and which of them are a choice between labels. */
function choices(root: TrieNode, label: number): { token: number; choice: boolean }[] {
  const path: { token: number; choice: boolean }[] = [];
  for (let node = root; node.under.length > 1; ) {
    const [token, child] = [...node.children].find(([, below]) => below.under.includes(label))!;
    path.push({ token, choice: node.children.size > 1 });
    node = child;
  }
  return path;
}
