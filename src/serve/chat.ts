/** The OpenAI chat completions API: one JSON answer, or chunks. */
import { randomUUID } from 'node:crypto';
import { type Answering, answer, type Question } from './answer.ts';
import type { GenerateResult } from './engine/protocol.ts';
import { type ChatRequest, chatRequest, parseBody, toMessages, userOf } from './schemas.ts';

type Json = Record<string, unknown>;

const usageOf = (result: GenerateResult): Json => ({
  prompt_tokens: result.inputTokens,
  completion_tokens: result.outputTokens,
  total_tokens: result.inputTokens + result.outputTokens,
  prompt_tokens_details: { cached_tokens: result.cachedTokens },
});

function toQuestion(request: ChatRequest, responseId: string): Question {
  return {
    api: 'chat',
    responseId,
    model: request.model ?? undefined,
    instructions: undefined,
    input: toMessages(request.messages),
    previousResponseId: undefined,
    maxTokens: request.max_completion_tokens ?? request.max_tokens ?? undefined,
    temperature: request.temperature ?? 0,
    topP: request.top_p ?? 1,
    seed: request.seed ?? undefined,
    stop: typeof request.stop === 'string' ? [request.stop] : (request.stop ?? []),
    truncate: false,
    store: request.store ?? true,
    user: userOf(request),
    metadata: request.metadata ?? {},
  };
}

/** With `emit`, chunks are sent as they come (without the closing [DONE]); the result is the whole completion either way. */
export async function completeChat(
  at: Answering,
  body: unknown,
  options: { signal: AbortSignal; emit?: (chunk: Json) => void },
): Promise<Json> {
  const request = parseBody(chatRequest, body);
  const responseId = `chatcmpl-${randomUUID().replaceAll('-', '')}`;
  const created = Math.floor(at.clock.now() / 1000);
  let model = '';
  const chunk = (choices: Json[], more: Json = {}) =>
    options.emit?.({ id: responseId, object: 'chat.completion.chunk', created, model, choices, ...more });
  const choice = (delta: Json, finish: string | null = null): Json[] => [
    { index: 0, delta, logprobs: null, finish_reason: finish },
  ];
  const { text, result, version } = await answer(at, toQuestion(request, responseId), {
    signal: options.signal,
    memory: new Map(),
    onStart: version => {
      model = version;
      chunk(choice({ role: 'assistant', content: '' }));
    },
    onDelta: delta => chunk(choice({ content: delta })),
  });
  const finish = result.reason === 'length' ? 'length' : 'stop';
  chunk(choice({}, finish));
  if (request.stream_options?.include_usage) chunk([], { usage: usageOf(result) });
  return {
    id: responseId,
    object: 'chat.completion',
    created,
    model: version,
    choices: [
      { index: 0, message: { role: 'assistant', content: text, refusal: null }, logprobs: null, finish_reason: finish },
    ],
    usage: usageOf(result),
  };
}
