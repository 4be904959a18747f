import type { Position } from '../../store/offsets.ts';

/** The log that events come from and announcements go to. Kafka is one implementation (kafka.ts); nothing else knows a client library. */

export interface LogRecord {
  readonly topic: string;
  readonly partition: number;
  readonly offset: number;
  readonly key: Buffer | null;
  /** null: a tombstone. */
  readonly value: Buffer | null;
  readonly headers: Readonly<Record<string, string>>;
}

export interface LogMessage {
  readonly key: string | Buffer | null;
  readonly value: string | Buffer | null;
  readonly headers?: Readonly<Record<string, string>>;
}

export interface Consumption {
  readonly topics: readonly string[];
  /**
   * Where consumption stands, read on every assignment: the log's own idea of it is not believed. A partition that is not named starts
   * where a new group starts.
   */
  positions(): Promise<readonly Position[]>;
  /** The partition's log has been made anew and ends before the position: reading starts again at `next`. */
  reset(position: Position): Promise<void>;
  /**
   * Records of one partition in order. When it resolves they are durable and the position has moved; when it throws they come again,
   * after a wait. Records may come more than once, around a rebalance in two processes at a time.
   */
  onBatch(records: readonly LogRecord[]): Promise<void>;
}

export type LogState = 'connected' | 'reconnecting' | 'closed';

export interface EventLog {
  readonly state: LogState;
  /** Starts to consume and returns at once; a log that is away is waited for without end. */
  consume(consumption: Consumption): void;
  /** Resolves when every replica in sync has the messages. @throws LearndError('dependency') when the log is away. */
  publish(topic: string, messages: readonly LogMessage[]): Promise<void>;
  /** Records not yet consumed, by topic. @throws LearndError('dependency') when the log is away. */
  lag(): Promise<Readonly<Record<string, number>>>;
  /** Lets the batch in progress finish, then leaves the group. */
  close(): Promise<void>;
}
