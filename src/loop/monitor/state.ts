import type { Seed } from '../../events/holdout.ts';
import {
  DecayedF1,
  type Labelled,
  type Perplexity,
  perplexity,
  type TextLoss,
  WindowedF1,
} from '../../learn/metrics/index.ts';
import { Watch, type WatchChange, type WatchState } from './watch.ts';

/**
 * What the monitor knows about the live version: figures over a window, what they were when it went live, and the detectors. Plain
 * JSON between turns, stored with the scored rows in one transaction, so a restart goes on at the same bit. It holds declared labels
 * and losses, never a text or a user.
 */

export interface LiveState {
  readonly version: number;
  readonly f1: {
    /** Rows scored since the version went live. */
    readonly rows: number;
    readonly window: readonly Labelled[];
    readonly decayed: ReturnType<DecayedF1['snapshot']>;
    readonly reference: number | null;
    readonly watch: WatchState;
  };
  readonly perplexity: {
    readonly rows: number;
    readonly window: readonly TextLoss[];
    readonly reference: number | null;
    readonly watch: WatchState;
  };
}

export interface Figures {
  readonly version: number;
  readonly f1: {
    /** null until `minimum` rows are known. */
    readonly value: number | null;
    /** Weight halves every window. */
    readonly decayed: number | null;
    readonly reference: number | null;
    readonly alarm: boolean;
    readonly rows: number;
  };
  readonly perplexity: {
    readonly value: number | null;
    readonly standard_error: number | null;
    readonly bits_per_byte: number | null;
    readonly reference: number | null;
    readonly alarm: boolean;
    readonly rows: number;
  };
}

export interface Sizes {
  readonly window: number;
  readonly minimum: number;
}

/** Task and label as one class: the same word may be a label of two tasks. */
const classOf = (task: string, label: string): string => `${task}\u0000${label}`;

export class Live {
  readonly version: number;
  readonly #sizes: Sizes;
  readonly #window: WindowedF1;
  readonly #decayed: DecayedF1;
  readonly #f1Watch: Watch;
  readonly #perplexityWatch: Watch;
  #documents: TextLoss[] = [];
  #rows = { f1: 0, perplexity: 0 };
  #reference: { f1: number | null; perplexity: number | null } = { f1: null, perplexity: null };

  constructor(version: number, sizes: Sizes) {
    this.version = version;
    this.#sizes = sizes;
    this.#window = new WindowedF1(sizes.window);
    this.#decayed = new DecayedF1(sizes.window);
    this.#f1Watch = new Watch(sizes);
    this.#perplexityWatch = new Watch(sizes);
  }

  /** A version that has just gone live. */
  static begin(version: number, sizes: Sizes, seed: Seed | undefined): Live {
    const live = new Live(version, sizes);
    if (!seed) return live;
    const documents = seed.documents.filter(d => d.tokens > 0);
    // Fewer than a figure needs are no reference: the first live rows then are.
    if (seed.f1 !== null && seed.errors.length >= sizes.minimum) {
      live.#f1Watch.seed(seed.errors);
      live.#reference.f1 = seed.f1;
    }
    if (documents.length >= sizes.minimum) {
      live.#perplexityWatch.seed(documents.map(d => d.nll / d.tokens));
      live.#reference.perplexity = perplexity(documents.map(d => ({ ...d, bytes: 0 }))).perplexity;
    }
    return live;
  }

  static restore(state: LiveState, sizes: Sizes): Live {
    const live = new Live(state.version, sizes);
    live.#window.restore(state.f1.window);
    live.#decayed.restore(state.f1.decayed);
    live.#f1Watch.restore(state.f1.watch);
    live.#perplexityWatch.restore(state.perplexity.watch);
    live.#documents = state.perplexity.window.slice(-sizes.window);
    live.#rows = { f1: state.f1.rows, perplexity: state.perplexity.rows };
    live.#reference = { f1: state.f1.reference, perplexity: state.perplexity.reference };
    return live;
  }

  label(row: { task: string; label: string; predicted: string }): WatchChange {
    const truth = classOf(row.task, row.label);
    const predicted = classOf(row.task, row.predicted);
    this.#rows.f1++;
    this.#window.update(truth, predicted);
    this.#decayed.update(truth, predicted);
    const change = this.#f1Watch.update(truth === predicted ? 0 : 1);
    if (this.#reference.f1 === null && this.#f1Watch.referenced) this.#reference.f1 = this.#window.value;
    return change;
  }

  document(loss: TextLoss): WatchChange {
    if (loss.tokens === 0) return null;
    this.#rows.perplexity++;
    this.#documents.push(loss);
    if (this.#documents.length > this.#sizes.window) this.#documents.shift();
    const change = this.#perplexityWatch.update(loss.nll / loss.tokens);
    if (this.#reference.perplexity === null && this.#perplexityWatch.referenced)
      this.#reference.perplexity = perplexity(this.#documents).perplexity;
    return change;
  }

  figures(): Figures {
    const { minimum } = this.#sizes;
    const documents: Perplexity = perplexity(this.#documents);
    const enoughLabels = this.#window.count >= minimum;
    const enoughDocuments = documents.texts >= minimum;
    return {
      version: this.version,
      f1: {
        value: enoughLabels ? this.#window.value : null,
        decayed: enoughLabels ? this.#decayed.value : null,
        reference: this.#reference.f1,
        alarm: this.#f1Watch.raised,
        rows: this.#rows.f1,
      },
      perplexity: {
        value: enoughDocuments ? documents.perplexity : null,
        standard_error: enoughDocuments ? documents.perplexityError : null,
        bits_per_byte: enoughDocuments ? documents.bitsPerByte : null,
        reference: this.#reference.perplexity,
        alarm: this.#perplexityWatch.raised,
        rows: this.#rows.perplexity,
      },
    };
  }

  snapshot(): LiveState {
    return {
      version: this.version,
      f1: {
        rows: this.#rows.f1,
        window: this.#window.snapshot(),
        decayed: this.#decayed.snapshot(),
        reference: this.#reference.f1,
        watch: this.#f1Watch.snapshot(),
      },
      perplexity: {
        rows: this.#rows.perplexity,
        window: this.#documents,
        reference: this.#reference.perplexity,
        watch: this.#perplexityWatch.snapshot(),
      },
    };
  }
}
