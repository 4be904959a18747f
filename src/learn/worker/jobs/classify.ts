import { type LoadedHead, loadHead } from '../../llama/head.ts';
import { openGguf } from '../../llama/index.ts';
import { LabelScorer } from '../../llama/label-scorer.ts';
import type { JobContext } from '../serve.ts';
import type { Classification, Jobs, ModelFiles } from '../types.ts';
import { openExtractor } from './features.ts';

/** Tokens of context for label scoring: the list of labels, the text and the label itself. */
const CONTEXT = 2048;
/** Texts between two looks at the parent. */
const CHUNK = { head: 16, model: 4 } as const;

type Classify = (texts: readonly string[], labels: readonly string[], signal: AbortSignal) => Promise<Float32Array[]>;

/** Heads are small: the last few stay, so that a task's turn does not read its file again. */
const heads = new Map<string, LoadedHead>();
let scorer: { key: string; scorer: LabelScorer; close: () => Promise<void> } | undefined;

async function headFor(files: Jobs['classify']['input']['files'], task: string): Promise<LoadedHead | undefined> {
  const head = files.heads[task];
  if (head === undefined) return undefined;
  const extractor = await openExtractor(head.features);
  const key = `${head.features} ${head.file}`;
  let loaded = heads.get(key);
  if (loaded === undefined || !loaded.reads(extractor)) {
    loaded = await loadHead(head.file, head.labels, extractor);
    heads.set(key, loaded);
    if (heads.size > 16) heads.delete(heads.keys().next().value!);
  }
  return loaded;
}

async function scorerFor(files: ModelFiles): Promise<LabelScorer> {
  const key = JSON.stringify([files.model, files.adapter, files.logitBias]);
  if (scorer?.key === key) return scorer.scorer;
  await scorer?.close();
  scorer = undefined;
  const model = await openGguf(files.model);
  const generator = await model.createGenerator({
    contextSize: Math.min(CONTEXT, model.contextLength),
    ...(files.adapter === undefined ? {} : { adapter: files.adapter }),
    ...(files.logitBias === undefined ? {} : { logitBias: files.logitBias }),
  });
  scorer = {
    key,
    scorer: new LabelScorer(model, generator),
    close: async () => {
      await generator.dispose();
      await model.dispose();
    },
  };
  return scorer.scorer;
}

/** As served: the version's head where its labels cover those asked for, else label scoring by the language model. */
export async function classify(
  input: Jobs['classify']['input'],
  context: JobContext,
): Promise<Jobs['classify']['result']> {
  const { files, task, labels, texts } = input;
  const head = await headFor(files, task);
  const byHead = head?.covers(labels) ? head : undefined;
  const model = byHead ?? (await scorerFor(files));
  const run: Classify = (some, names, signal) => model.classify(some, names, signal);
  const chunk = byHead ? CHUNK.head : CHUNK.model;
  const results: Classification[] = [];
  for (let at = 0; at < texts.length; at += chunk) {
    await context.breathe();
    for (const probabilities of await run(texts.slice(at, at + chunk), labels, context.signal))
      results.push(named(labels, probabilities));
    context.progress({ stage: 'classify', done: results.length, total: texts.length });
  }
  return results;
}

export function named(labels: readonly string[], probabilities: Float32Array): Classification {
  let best = 0;
  const scores: Record<string, number> = {};
  for (const [i, label] of labels.entries()) {
    scores[label] = probabilities[i]!;
    if (probabilities[i]! > probabilities[best]!) best = i;
  }
  return { label: labels[best]!, scores };
}
