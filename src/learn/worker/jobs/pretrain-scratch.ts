import { writeModelGguf } from '../../model/export.ts';
import { trainBpe } from '../../model/tokenizer/train.ts';
import { tensorflow } from '../../tensor/backend.ts';
import { mapSource, pretrain, scratchConfig } from '../../training/pretrain.ts';
import { scratchCorpus } from '../../training/scratch-corpus.ts';
import type { JobContext } from '../serve.ts';
import type { Jobs } from '../types.ts';

const VOCABULARY = 1024;
/** Public text and a public seed: everyone's scratch model is the same up to the order of floating-point sums. */
const SEED = new Uint8Array(32).fill(1);

/** A tokenizer and a small model from nothing but the text that comes with learnd, written as GGUF (f16). */
export async function pretrainScratch(
  input: Jobs['pretrain-scratch']['input'],
  context: JobContext,
): Promise<Jobs['pretrain-scratch']['result']> {
  tensorflow({ threads: input.threads });
  const corpus = scratchCorpus();
  const tokenizer = trainBpe(corpus, VOCABULARY, ['<|endoftext|>']);
  const config = scratchConfig({ vocabSize: tokenizer.vocabSize });
  const steps = pretrain({
    config,
    documents: corpus.map(text => tokenizer.encode(text)),
    separator: tokenizer.eosId,
    seed: SEED,
    ...(input.maxSeconds === undefined ? {} : { maxSeconds: input.maxSeconds }),
    signal: context.signal,
  });
  for (;;) {
    const next = await steps.next();
    if (!next.done) {
      const { step, steps: total, loss } = next.value;
      context.progress({ stage: 'pretrain', done: step, total, ...(loss === undefined ? {} : { facts: { loss } }) });
      await context.breathe();
      continue;
    }
    const parts = { config, weights: mapSource(next.value.weights), tokenizer, name: 'scratch' };
    const { path, sha256, bytes } = await writeModelGguf(parts, input.out, { type: 'f16' });
    return { file: { path, sha256, bytes } };
  }
}
