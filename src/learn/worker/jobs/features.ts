import { type FeatureExtractor, openGguf } from '../../llama/index.ts';
import type { JobContext } from '../serve.ts';
import type { Jobs } from '../types.ts';

/** The feature model read last stays open: the monitor asks about the same one every few seconds. */
let open: { path: string; contexts: number; extractor: FeatureExtractor; close: () => Promise<void> } | undefined;

/** `contexts`: texts worked on at once, one thread each. One for the monitor's few texts, beside which answers are served. */
export async function openExtractor(path: string, contexts = 1): Promise<FeatureExtractor> {
  if (open?.path === path && open.contexts >= contexts) return open.extractor;
  await open?.close();
  open = undefined;
  const model = await openGguf(path);
  const extractor = await model.createFeatureExtractor({ threads: 1, contexts });
  open = {
    path,
    contexts,
    extractor,
    close: async () => {
      await extractor.dispose();
      await model.dispose();
    },
  };
  return extractor;
}

/** Texts between two reports; at about 33 short texts a second on a busy core, twice a second. */
const CHUNK = 16;

export async function extract(
  path: string,
  texts: readonly string[],
  context: JobContext,
  options: { readonly stage?: string; readonly contexts?: number } = {},
): Promise<Float32Array[]> {
  const extractor = await openExtractor(path, options.contexts);
  const vectors: Float32Array[] = [];
  for (let at = 0; at < texts.length; at += CHUNK) {
    await context.breathe();
    vectors.push(...(await extractor.features(texts.slice(at, at + CHUNK), context.signal)));
    context.progress({ stage: options.stage ?? 'features', done: vectors.length, total: texts.length });
  }
  return vectors;
}

export async function features(
  input: Jobs['features']['input'],
  context: JobContext,
): Promise<Jobs['features']['result']> {
  return await extract(input.model, input.texts, context);
}
