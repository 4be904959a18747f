/** Every signal a policy may name, with its type and unit; the one table that the checker, the collector and the decision share. */

export type SignalType = 'int' | 'double' | 'bool';
/** null: not known yet (no data, or the deployment does not have it). */
export type SignalValue = number | boolean | null;

const figures = {
  version: { type: 'int', what: 'the N of name@N' },
  age_hours: { type: 'double', what: 'hours since it was promoted' },
  parameters: { type: 'int', what: 'number of parameters' },
  size_mb: { type: 'double', what: 'size of the model file, MB' },
  perplexity: { type: 'double', what: 'on held-out documents' },
  f1: { type: 'double', what: 'weighted F1 on held-out labels' },
  tokens_per_second: { type: 'double', what: 'decoding speed when it was evaluated' },
} as const;

const drift = {
  value: { type: 'double', what: 'the figure of the live version now' },
  reference: { type: 'double', what: 'what it was when the version went live' },
  alarm: { type: 'bool', what: 'it has got worse, and has not come back' },
} as const;

export const SIGNALS = {
  feedback: {
    new: { type: 'int', what: 'rows that may be trained on, since the last frozen training view' },
    total: { type: 'int', what: 'rows stored' },
  },
  documents: {
    new: { type: 'int', what: 'rows that may be trained on, since the last frozen training view' },
    total: { type: 'int', what: 'rows stored' },
  },
  perplexity: drift,
  f1: drift,
  latency: {
    p50_ms: { type: 'double', what: 'median time of an answer, last 15 minutes' },
    p95_ms: { type: 'double', what: '95th percentile of the time of an answer' },
    first_token_p95_ms: { type: 'double', what: '95th percentile of the time to the first token' },
  },
  errors: { rate: { type: 'double', what: 'share of answers that failed, last 15 minutes' } },
  budget: {
    epsilon_spent: { type: 'double', what: 'lifetime total, composed' },
    epsilon_left: { type: 'double', what: 'budget.epsilon less what is spent' },
  },
  champion: figures,
  round: { running: { type: 'bool', what: 'a round is running' } },
  rounds: { failed: { type: 'int', what: 'failed rounds in a row' } },
  time: {
    hour: { type: 'int', what: "0 to 23, in the rule's time zone" },
    weekday: { type: 'int', what: "0 (Sunday) to 6 (Saturday), in the rule's time zone" },
  },
} as const satisfies SignalTable;

/** Beside all of the above, only in `gate`. */
export const CANDIDATE = {
  ...figures,
  epsilon: { type: 'double', what: 'what the round spent' },
} as const;

type SignalTable = Record<string, Record<string, { type: SignalType; what: string }>>;
type Table = typeof SIGNALS;
export type SignalName = { [G in keyof Table]: `${G}.${keyof Table[G] & string}` }[keyof Table];
export type Signals = Record<SignalName, SignalValue>;

/** `feedback.new` -> int, … */
export const signalTypes = (table: SignalTable): Map<string, SignalType> =>
  new Map(
    Object.entries(table).flatMap(([group, members]) =>
      Object.entries(members).map(([name, { type }]) => [`${group}.${name}`, type] as const),
    ),
  );

export const signalNames: readonly SignalName[] = [...signalTypes(SIGNALS).keys()] as SignalName[];

/** What a gate may compare: a version's card, and what only the registry knows. */
export interface GateFigures {
  readonly perplexity: number | null;
  readonly f1: number | null;
  readonly parameters: number | null;
  readonly size_mb: number | null;
  readonly tokens_per_second: number | null;
  readonly version?: number | null;
  readonly age_hours?: number | null;
  readonly epsilon?: number | null;
}

export interface GateLine {
  readonly expression: string;
  readonly result: 'pass' | 'fail' | 'does not apply';
  /** Every signal the line names, as it was. */
  readonly values: Readonly<Record<string, SignalValue>>;
  /** One clause for a reader: which figure is missing, or both sides of what failed. */
  readonly reason: string;
}

export interface GateVerdict {
  readonly admitted: boolean;
  readonly lines: readonly GateLine[];
}

/** Injected by the cycle into the stage that evaluates candidates. */
export type Gate = (champion: GateFigures, candidate: GateFigures, signals?: Readonly<Partial<Signals>>) => GateVerdict;
