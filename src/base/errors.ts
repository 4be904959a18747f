/**
 * One error class for the whole program. An error says what happened, where (field, file, offset), and what to do;
 * `retriable` tells a caller whether the same call may succeed later, and `code` is stable enough to test against.
 */

/** Codes are grouped by what the caller should do; HTTP and exit codes are derived from them in one place each. */
export type ErrorCode =
  | 'invalid' // the caller's input is wrong: fix it (field names it)
  | 'unauthorized' // no key, or a wrong one
  | 'forbidden' // a key without the scope
  | 'not_found' // unknown model, version, path
  | 'conflict' // the state does not allow it now (a round is running, a version exists)
  | 'too_large' // over a limit
  | 'busy' // queue full: retry later
  | 'not_ready' // a part it needs is not up
  | 'unavailable_feature' // contract fixed, not built in this version
  | 'budget_exhausted' // the privacy budget does not allow it
  | 'corrupt' // a file or row is not what it claims to be
  | 'dependency' // a service or a native part is missing or broken
  | 'canceled'
  | 'internal';

export interface ErrorOptionsEx {
  /** The name of the field, setting or option at fault. */
  field?: string;
  /** What the reader can do about it, as an imperative sentence. */
  hint?: string;
  retriable?: boolean;
  cause?: unknown;
  /** Further facts for machines (never private text). */
  data?: Record<string, unknown>;
}

export class LearndError extends Error {
  readonly code: ErrorCode;
  readonly field: string | undefined;
  readonly hint: string | undefined;
  readonly retriable: boolean;
  readonly data: Record<string, unknown> | undefined;

  constructor(code: ErrorCode, message: string, options: ErrorOptionsEx = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'LearndError';
    this.code = code;
    this.field = options.field;
    this.hint = options.hint;
    this.retriable = options.retriable ?? (code === 'busy' || code === 'not_ready' || code === 'dependency');
    this.data = options.data;
  }
}

export const invalid = (field: string, message: string, options: ErrorOptionsEx = {}): LearndError =>
  new LearndError('invalid', message, { ...options, field });

export const laterVersion = (what: string): LearndError =>
  new LearndError('unavailable_feature', `${what} is not available in this version`, {
    hint: 'See docs/contract.md for what is built; the contract is fixed so that it can be added without a change of yours.',
    retriable: false,
  });

/** Anything thrown, as a LearndError, its cause kept. */
export function asLearndError(thrown: unknown, code: ErrorCode = 'internal'): LearndError {
  if (thrown instanceof LearndError) return thrown;
  const message = thrown instanceof Error ? thrown.message : String(thrown);
  return new LearndError(code, message, { cause: thrown, retriable: false });
}

/** One line for a person: message, field, hint. Never a stack. */
export function oneLine(thrown: unknown): string {
  const error = asLearndError(thrown);
  const parts = [error.message.replace(/\s*\n\s*/g, ' ')];
  if (error.field !== undefined && !error.message.includes(error.field)) parts.unshift(`${error.field}:`);
  if (error.hint !== undefined) parts.push(`(${error.hint})`);
  return parts.join(' ');
}
