/**
 * Classification by the language model alone, for a task that has no head yet: the labels are listed, the text follows, and the
 * probability of each label's name as the answer is read off (labels.ts). The list comes first, so that it is evaluated
 * once and stays in the sequence's cache for the texts after it.
 */
import type { Generator } from './generator.ts';
import type { GgufModel } from './runtime.ts';

/** Longest text of an example shown to the model, in tokens. */
const TEXT_TOKENS = 256;

export class LabelScorer {
  readonly #model: GgufModel;
  readonly #generator: Generator;

  constructor(model: GgufModel, generator: Generator) {
    this.#model = model;
    this.#generator = generator;
  }

  /** [texts][labels], each row sums to 1. */
  async classify(texts: readonly string[], labels: readonly string[], signal?: AbortSignal): Promise<Float32Array[]> {
    const terminator = this.#model.tokenize('\n')[0] ?? this.#model.eosId ?? 0;
    const names = labels.map(label => this.#model.tokenize(` ${readable(label)}`));
    const head = this.#model.tokenize(`Labels: ${labels.map(readable).join(', ')}\n`);
    const tail = this.#model.tokenize('\nLabel:');
    const room = this.#generator.contextSize - tail.length - Math.max(...names.map(name => name.length)) - 2;
    const rows: Float32Array[] = [];
    for (const text of texts) {
      const body = this.#model
        .tokenize(`Message: ${text.replace(/\s+/g, ' ').trim()}`)
        .slice(0, Math.min(TEXT_TOKENS, room));
      const lead = head.length + body.length <= room ? head : []; // a list too long for the context is left out
      const start = this.#model.addsBos && this.#model.bosId !== undefined ? [this.#model.bosId] : [];
      const { probabilities } = await this.#generator.scoreLabels({
        tokens: [...start, ...lead, ...body, ...tail],
        labels: names,
        terminator,
        ...(signal && { signal }),
      });
      rows.push(probabilities);
    }
    return rows;
  }
}

/** `card_lost` reads as "card lost": names are identifiers, and the model knows words. */
const readable = (label: string): string => label.replace(/[_\s]+/g, ' ').trim();
