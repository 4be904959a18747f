/** The OpenAI Responses API: a request in, the response object or its stream of events out; over HTTP, SSE and the socket alike. */
import { randomUUID } from 'node:crypto';
import { asLearndError, type LearndError } from '../base/errors.ts';
import { type Answering, answer, type ConnectionMemory, type Question } from './answer.ts';
import type { GenerateResult } from './engine/protocol.ts';
import { errorBody } from './errors.ts';
import { parseBody, type ResponsesRequest, responsesRequest, toMessages, userOf } from './schemas.ts';

type Json = Record<string, unknown>;
/** Sends one event of the stream; `sequence_number` is already in it. */
export type Emit = (event: Json & { type: string }) => void;

const id = (prefix: string): string => `${prefix}_${randomUUID().replaceAll('-', '')}`;

function toQuestion(request: ResponsesRequest, responseId: string): Question {
  return {
    api: 'responses',
    responseId,
    model: request.model ?? undefined,
    instructions: request.instructions ?? undefined,
    input: typeof request.input === 'string' ? [{ role: 'user', content: request.input }] : toMessages(request.input),
    previousResponseId: request.previous_response_id ?? undefined,
    maxTokens: request.max_output_tokens ?? undefined,
    temperature: request.temperature ?? 0,
    topP: request.top_p ?? 1,
    seed: undefined,
    stop: [],
    truncate: request.truncation === 'auto',
    store: request.store ?? true,
    user: userOf(request),
    metadata: request.metadata ?? {},
  };
}

/** Builds the response object in each of its states. */
class ResponseObject {
  readonly #common: Json;
  readonly itemId = id('msg');

  constructor(request: ResponsesRequest, responseId: string, version: string, createdAt: number) {
    this.#common = {
      id: responseId,
      object: 'response',
      created_at: Math.floor(createdAt / 1000),
      background: false,
      instructions: request.instructions ?? null,
      max_output_tokens: request.max_output_tokens ?? null,
      metadata: request.metadata ?? {},
      model: version,
      parallel_tool_calls: true,
      previous_response_id: request.previous_response_id ?? null,
      reasoning: { effort: null, summary: null },
      store: request.store ?? true,
      temperature: request.temperature ?? 0,
      text: { format: { type: 'text' } },
      tool_choice: 'auto',
      tools: [],
      top_p: request.top_p ?? 1,
      truncation: request.truncation ?? 'disabled',
      ...(request.user && { user: request.user }),
      ...(request.safety_identifier && { safety_identifier: request.safety_identifier }),
    };
  }

  part(text: string): Json {
    return { type: 'output_text', text, annotations: [], logprobs: [] };
  }

  item(status: 'in_progress' | 'completed' | 'incomplete', text?: string): Json {
    const content = text === undefined ? [] : [this.part(text)];
    return { id: this.itemId, type: 'message', role: 'assistant', status, content };
  }

  begun(): Json {
    return { ...this.#common, status: 'in_progress', error: null, incomplete_details: null, output: [], usage: null };
  }

  ended(text: string, result: GenerateResult): Json {
    const whole = result.reason === 'stop';
    const status = whole ? 'completed' : 'incomplete';
    return {
      ...this.#common,
      status,
      error: null,
      incomplete_details: whole ? null : { reason: 'max_output_tokens' },
      output: [this.item(status, text)],
      output_text: text,
      usage: {
        input_tokens: result.inputTokens,
        input_tokens_details: { cached_tokens: result.cachedTokens, cache_write_tokens: 0 },
        output_tokens: result.outputTokens,
        output_tokens_details: { reasoning_tokens: 0 },
        total_tokens: result.inputTokens + result.outputTokens,
      },
    };
  }

  failed(error: LearndError, text: string): Json {
    return {
      ...this.#common,
      status: 'failed',
      error: { code: 'server_error', message: errorBody(error).message },
      incomplete_details: null,
      output: text === '' ? [] : [this.item('incomplete', text)],
      usage: null,
    };
  }
}

/**
 * Answers one request. With `emit` its events are sent as they happen and a failure after `response.created` becomes
 * `response.failed` (the promise then resolves with that object); a failure before it is thrown. Without `emit` every failure is
 * thrown and the finished response object is the result.
 */
export async function respond(
  at: Answering,
  body: unknown,
  options: { signal: AbortSignal; memory: ConnectionMemory; emit?: Emit },
): Promise<Json> {
  const request = parseBody(responsesRequest, body);
  const responseId = id('resp');
  let sequence = 0;
  const emit = (type: string, fields: Json) => options.emit?.({ type, sequence_number: sequence++, ...fields });
  let object: ResponseObject | undefined;
  let text = '';
  const place = () => ({ item_id: object!.itemId, output_index: 0, content_index: 0 });
  try {
    const { result, version } = await answer(at, toQuestion(request, responseId), {
      signal: options.signal,
      memory: options.memory,
      onStart: version => {
        object = new ResponseObject(request, responseId, version, at.clock.now());
        emit('response.created', { response: object.begun() });
        emit('response.in_progress', { response: object.begun() });
        emit('response.output_item.added', { output_index: 0, item: object.item('in_progress') });
        emit('response.content_part.added', { ...place(), part: object.part('') });
      },
      onDelta: delta => {
        text += delta;
        emit('response.output_text.delta', { ...place(), delta, logprobs: [] });
      },
    });
    object ??= new ResponseObject(request, responseId, version, at.clock.now());
    const response = object.ended(text, result);
    const item = (response.output as Json[])[0]!;
    emit('response.output_text.done', { ...place(), text, logprobs: [] });
    emit('response.content_part.done', { ...place(), part: object.part(text) });
    emit('response.output_item.done', { output_index: 0, item });
    emit(`response.${response.status as string}`, { response });
    return response;
  } catch (thrown) {
    if (object === undefined || options.emit === undefined) throw thrown;
    const response = object.failed(asLearndError(thrown), text);
    emit('response.failed', { response });
    return response;
  }
}
