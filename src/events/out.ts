/** Events out: CloudEvents 1.0 from the outbox table, in order, at least once, on `learnd.announcements`. */

export interface VersionInReceipt {
  /** `name@N`. */
  readonly version: string;
  readonly round: number;
  /** Trained on the user's rows itself, evaluated with them, or built on a version that was trained on them. */
  readonly role: 'trained' | 'evaluated' | 'inherits';
  /** null: trained without noise (public sources only). */
  readonly epsilon: number | null;
  readonly delta: number | null;
  /** One sentence: what the privacy guarantee says about this version and the user. */
  readonly guarantee: string;
}

/** What `learnd erase USER` prints and what is kept: it holds no text and not the user's name. */
export interface ErasureReceipt {
  /** Keyed hash, hex: the same user's later events are recognised by it and refused. */
  readonly user_hash: string;
  readonly erased_at: string;
  /** Rows removed (dead_letters: payloads removed), by table. */
  readonly rows: {
    readonly feedback: number;
    readonly documents: number;
    readonly exchanges: number;
    readonly dead_letters: number;
  };
  readonly versions: readonly VersionInReceipt[];
  /** A round that was training when the rows were removed. */
  readonly running_round: number | null;
  readonly note: string;
}

export interface OutData {
  'learnd.alarm.raised': {
    signal: string;
    version: string;
    detector: string;
    value: number | null;
    reference: number | null;
  };
  'learnd.alarm.cleared': { signal: string; version: string; why: string };
  'learnd.decision.made': { id: number; outcome: string; rule: string | null; reason: string; round: number | null };
  'learnd.round.started': { round: number; reason: string; parent: string };
  'learnd.round.progressed': { round: number; state: string; progress: unknown };
  'learnd.round.finished': {
    round: number;
    state: string;
    candidate: string | null;
    verdict: unknown;
    epsilon: number;
  };
  'learnd.version.published': { version: string; sha256: string; parent: string | null; round: number | null };
  'learnd.version.promoted': { version: string; previous: string | null; reason: string };
  'learnd.version.rolled-back': { version: string; previous: string | null; reason: string };
  'learnd.budget.exhausted': { epsilon_spent: number; epsilon_limit: number; delta: number; reason: string };
  'learnd.erasure.completed': ErasureReceipt;
  /** The learning receipt: which served version first contained it. */
  'learnd.feedback.learned': { source: string; id: string; version: string };
}

export type OutType = keyof OutData;

/** Topics of Kafka. */
export const TOPICS = {
  feedback: 'learnd.feedback',
  documents: 'learnd.documents',
  erasures: 'learnd.erasures',
  dead: 'learnd.dead',
  announcements: 'learnd.announcements',
  exchanges: 'learnd.exchanges',
} as const;
export const TOPICS_IN = [TOPICS.feedback, TOPICS.documents, TOPICS.erasures] as const;
