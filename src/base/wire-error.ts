import { asLearndError, type ErrorCode, LearndError } from './errors.ts';

/** An error as it crosses a channel between processes: structured clone would drop the class and its fields. */
export interface WireError {
  readonly code: ErrorCode;
  readonly message: string;
  readonly field?: string;
  readonly hint?: string;
  readonly retriable: boolean;
  readonly data?: Record<string, unknown>;
}

export function toWire(thrown: unknown): WireError {
  const error = asLearndError(thrown);
  return {
    code: error.code,
    message: error.message,
    ...(error.field === undefined ? {} : { field: error.field }),
    ...(error.hint === undefined ? {} : { hint: error.hint }),
    retriable: error.retriable,
    ...(error.data === undefined ? {} : { data: error.data }),
  };
}

export const fromWire = (error: WireError): LearndError => new LearndError(error.code, error.message, error);
