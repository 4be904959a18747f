import { asLearndError, type ErrorCode, LearndError } from '../../base/errors.ts';
import type { WireError } from './protocol.ts';

/** An error as it crosses the channel: structured clone would drop the class and its fields. */
export function toWire(thrown: unknown): WireError {
  const error = asLearndError(thrown);
  return {
    code: error.code,
    message: error.message,
    retriable: error.retriable,
    ...(error.field !== undefined && { field: error.field }),
    ...(error.hint !== undefined && { hint: error.hint }),
    ...(error.data !== undefined && { data: error.data }),
  };
}

export const fromWire = (wire: WireError): LearndError =>
  new LearndError(wire.code as ErrorCode, wire.message, {
    retriable: wire.retriable,
    ...(wire.field !== undefined && { field: wire.field }),
    ...(wire.hint !== undefined && { hint: wire.hint }),
    ...(wire.data !== undefined && { data: wire.data }),
  });
