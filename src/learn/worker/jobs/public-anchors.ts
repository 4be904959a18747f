import { type EngineModel, loadEngineModel } from '../../model/engine/index.ts';
import { openModel } from '../../model/open.ts';
import type { Tokenizer } from '../../model/types.ts';
import { tensorflow } from '../../tensor/backend.ts';
import { type Anchor, anchorsOf } from '../../training/public-terms.ts';
import { PUBLIC_SENTENCES } from '../../training/public-text.ts';

/** Sequences that a KL to the base is measured on, and their length: about 700 tokens, a second's work of SmolLM2-135M. */
const ANCHORS = 48;
const ANCHOR_TOKENS = 48;
/** Public text that a step may replay. */
const REPLAYED = 512;
/** Its first sentences are those of the self-checks and of no other use. */
const FIRST = 48;

/** Public texts as token sequences: those of the deployment, else a built-in collection. */
export function publicSequences(tokenizer: Tokenizer, texts: readonly string[]): number[][] {
  const from = texts.length > 0 ? texts : PUBLIC_SENTENCES.slice(FIRST);
  return from
    .slice(0, REPLAYED)
    .map(text => tokenizer.encode(text).slice(0, ANCHOR_TOKENS))
    .filter(tokens => tokens.length > 1);
}

/** The built-in sentences only: a deployment's public text changes from round to round, a bound on the KL must not. */
const anchorSequences = (tokenizer: Tokenizer): number[][] => publicSequences(tokenizer, []).slice(0, ANCHORS);

/** What the base says about them. `model`: it is in memory already, and no adapter over it is looked at. */
export async function baseAnchors(base: string, threads: number, model?: EngineModel): Promise<Anchor[]> {
  tensorflow({ threads });
  const checkpoint = await openModel(base);
  const teacher = model ?? loadEngineModel(checkpoint);
  try {
    return anchorsOf(teacher, anchorSequences(checkpoint.tokenizer));
  } finally {
    if (model === undefined) teacher.dispose();
  }
}
