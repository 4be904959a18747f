/** An error as a client sees it: the same body over HTTP and in an `error` frame, in the shape the OpenAI clients read. */
import { asLearndError, type ErrorCode, type LearndError } from '../base/errors.ts';

const STATUS: Record<ErrorCode, number> = {
  invalid: 400,
  unauthorized: 401,
  forbidden: 403,
  not_found: 404,
  conflict: 409,
  too_large: 413,
  busy: 429,
  not_ready: 503,
  dependency: 503,
  // Not 501: the official clients retry every 5xx, and asking again changes nothing.
  unavailable_feature: 400,
  budget_exhausted: 409,
  canceled: 499,
  corrupt: 500,
  internal: 500,
};

const TYPE: Partial<Record<ErrorCode, string>> = {
  unauthorized: 'authentication_error',
  forbidden: 'permission_error',
  busy: 'rate_limit_error',
  not_ready: 'server_error',
  dependency: 'server_error',
  corrupt: 'server_error',
  internal: 'server_error',
};

export interface ErrorBody {
  readonly message: string;
  readonly type: string;
  readonly code: string;
  readonly param: string | null;
}

export const statusOf = (error: LearndError): number => STATUS[error.code];

/** `data.code` of the error, where it has one, is the name the OpenAI API has for the case. */
export function errorBody(thrown: unknown): ErrorBody {
  const error = asLearndError(thrown);
  // An internal fault may quote anything; its text belongs in the log.
  const said = error.code === 'internal' ? 'internal error; the log of the daemon says more' : error.message;
  return {
    message: error.hint === undefined ? said : `${said} (${error.hint})`,
    type: TYPE[error.code] ?? 'invalid_request_error',
    code: typeof error.data?.code === 'string' ? error.data.code : error.code,
    param: error.field ?? null,
  };
}

/** Seconds for the `retry-after` header, where the error carries them. */
export function retryAfter(error: LearndError): number | undefined {
  const seconds = error.data?.retryAfter;
  if (typeof seconds === 'number') return seconds;
  return error.code === 'busy' || error.code === 'not_ready' || error.code === 'dependency' ? 1 : undefined;
}
