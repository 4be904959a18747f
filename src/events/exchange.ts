export type Role = 'system' | 'user' | 'assistant';

export interface ChatMessage {
  readonly role: Role;
  readonly content: string;
}

/** A prompt and the answer served for it. */
export interface Exchange {
  /** `resp_…` or `chatcmpl-…`; what feedback names as `response_id`. */
  readonly responseId: string;
  readonly previousResponseId: string | undefined;
  /** `name@N` of the one version that answered. */
  readonly version: string;
  readonly api: 'responses' | 'chat';
  readonly instructions: string | undefined;
  /** The messages of this request alone: what `previous_response_id` leads to is not repeated here. */
  readonly input: readonly ChatMessage[];
  readonly output: string;
  readonly status: 'completed' | 'incomplete' | 'failed';
  readonly incompleteReason: string | undefined;
  /** The pseudonymous user as given (metadata.user, else safety_identifier, else user); feedback by response_id inherits it. */
  readonly user: string | undefined;
  readonly metadata: Readonly<Record<string, string>>;
  readonly inputTokens: number;
  readonly outputTokens: number;
  /** Milliseconds since the epoch. */
  readonly createdAt: number;
  readonly latencyMs: number;
  readonly firstTokenMs: number | undefined;
}
