import { invalid } from '../../../base/errors.ts';
import { Decoder } from '../../model/engine/decode.ts';
import type { Example } from '../../model/engine/units.ts';
import type { Checkpoint, Tokenizer } from '../../model/types.ts';
import { tensorflow } from '../../tensor/backend.ts';
import type { BesidePass } from '../beside.ts';
import { promptTokens } from '../objectives/conversation.ts';
import { type Pattern, parsePattern, type States } from './pattern.ts';
import type { PatternProbe } from './spec.ts';

/** Beginnings kept at each token, and texts given back. */
const BEAMS = 4;
/** Tokens of a text of the form. */
const LONGEST = 96;

interface Beam {
  readonly tokens: readonly number[];
  readonly states: States;
  readonly score: number;
  /** Its place among the beginnings of the token before. */
  readonly from: number;
}

interface Next {
  readonly token: number;
  readonly states: States;
  readonly done: boolean;
}

/**
 * The likeliest texts of a form under the weights as they are, by beam search over the tokens that keep to it: what somebody who
 * knows the form would get out of the model (arXiv 1802.08232 searches so for secrets). A lower bound on the likeliest of all: a
 * text whose beginning is unlikelier than that of four others is missed.
 * @returns sequences to be scored as those of a written text (`probeExample`), likeliest first
 */
export async function likeliestOf(
  { model, trainable, options }: BesidePass,
  checkpoint: Pick<Checkpoint, 'chatTemplate' | 'tokenizer' | 'path'>,
  { prompt, pattern: source }: PatternProbe,
): Promise<Example[]> {
  const tf = tensorflow();
  const pattern = parsePattern(source);
  const { tokenizer } = checkpoint;
  const { config } = model;
  // Running text begins with what is certain, without a space at its end: that belongs to the word after it.
  const opening = prompt === undefined ? pattern.literal.trimEnd() : '';
  const before =
    prompt === undefined ? tokenizer.encode(opening) : promptTokens(checkpoint, [{ role: 'user', content: prompt }]);
  if (before.length === 0)
    throw invalid('pattern', `${JSON.stringify(source)} needs a prompt, or a beginning that is written out`);
  const states = [...opening].reduce(pattern.advance, pattern.start);
  const first = Math.max(1, prompt === undefined ? 1 : before.length);
  const scored = (tokens: readonly number[]): Example => ({ tokens, mask: tokens.map((_, t) => t >= first) });
  if (pattern.done(states) && before.length > first) return [scored(before)];
  const following = followers(pattern, tokenizer, config.vocabSize);
  let open: Beam[] = [{ tokens: [], states, score: 0, from: 0 }];
  const decoder = new Decoder(model, trainable.adapter);
  const done: Beam[] = [];
  const longest = Math.min(LONGEST, config.contextLength - before.length);
  try {
    for (let length = 0; length < longest && open.length > 0; length++) {
      await options.onMicrobatch?.();
      const logp = tf.tidy(() => {
        const logits =
          length === 0
            ? decoder.begin([before])
            : decoder.next(
                open.map(beam => beam.tokens.at(-1)!),
                open.map(beam => beam.from),
              );
        return tf.logSoftmax(options.tokenBias === undefined ? logits : tf.add(logits, options.tokenBias)).dataSync();
      });
      const found: (Beam & { readonly done: boolean })[] = [];
      for (const [i, beam] of open.entries())
        for (const next of following(beam.states)) {
          const score = beam.score + logp[i * config.vocabSize + next.token]!;
          found.push({ tokens: [...beam.tokens, next.token], states: next.states, done: next.done, score, from: i });
        }
      const best = found.sort((a, b) => b.score - a.score).slice(0, BEAMS);
      done.push(...best.filter(beam => beam.done));
      done.sort((a, b) => b.score - a.score).splice(BEAMS);
      // A beginning never becomes likelier than it is.
      const least = done.length < BEAMS ? Number.NEGATIVE_INFINITY : done.at(-1)!.score;
      open = best.filter(beam => !beam.done && beam.score > least);
    }
  } finally {
    decoder.dispose();
  }
  if (done.length === 0)
    throw invalid('pattern', `no text of the form ${JSON.stringify(source)} can be written within ${longest} tokens`);
  return done.map(beam => scored([...before, ...beam.tokens]));
}

/** The tokens that go on from states of the form, and where they lead; a token may say more than the form's end. */
function followers(pattern: Pattern, tokenizer: Tokenizer, vocabSize: number): (states: States) => readonly Next[] {
  const beginnings = textsOf(tokenizer);
  const known = new Map<string, readonly Next[]>();
  const goOn = (token: number, then: States, rest: readonly string[]): Next[] => {
    if (token >= vocabSize) return [];
    let states = then;
    for (const char of rest) {
      if (pattern.done(states)) break;
      states = pattern.advance(states, char);
      if (states.length === 0) return [];
    }
    return [{ token, states, done: pattern.done(states) }];
  };
  return states => {
    const key = states.join();
    let next = known.get(key);
    if (next === undefined) {
      next = [...beginnings].flatMap(([char, texts]) => {
        const then = pattern.advance(states, char);
        return then.length === 0 ? [] : texts.flatMap(([token, rest]) => goOn(token, then, rest));
      });
      known.set(key, next);
    }
    return next;
  };
}

type Beginnings = ReadonlyMap<string, (readonly [token: number, rest: readonly string[]])[]>;
const texts = new WeakMap<Tokenizer, Beginnings>();

/** Tokens that are text by themselves, by their first character. */
function textsOf(tokenizer: Tokenizer): Beginnings {
  let known = texts.get(tokenizer);
  if (known === undefined) {
    const found = new Map<string, (readonly [number, readonly string[]])[]>();
    for (let token = 0; token < tokenizer.vocabSize; token++) {
      const text = tokenizer.decode([token], { skipSpecial: true });
      const [first, ...rest] = text;
      if (first === undefined || text.includes('\uFFFD')) continue;
      const of = found.get(first);
      if (of) of.push([token, rest]);
      else found.set(first, [[token, rest]]);
    }
    known = found;
    texts.set(tokenizer, known);
  }
  return known;
}
