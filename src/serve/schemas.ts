/** Request bodies: one schema validates, types and documents (openapi.ts). Unknown fields are refused by name. */
import { z } from 'zod';
import { invalid } from '../base/errors.ts';
import type { ChatMessage } from './ports.ts';

/** Accepted because the official clients send it; changes nothing here. */
const ignored = z.unknown().optional().describe('Accepted and ignored');
/** Part of the OpenAI API that this server does not have: only its empty value is accepted. */
const empty = (what: string) =>
  z
    .array(z.unknown())
    .max(0, { error: `${what} are not supported` })
    .nullish()
    .describe('Only empty');
const onlyFalse = (what: string) => z.literal(false, { error: `${what} is not supported` }).nullish();

const role = z.enum(['system', 'developer', 'user', 'assistant']);
const part = z.looseObject({
  type: z.enum(['input_text', 'output_text', 'text'], { error: 'only text parts are supported' }),
  text: z.string(),
});
const content = z.union([z.string(), z.array(part)]);
const metadata = z
  .record(z.string().max(64), z.string().max(512))
  .refine(value => Object.keys(value).length <= 16, { error: 'at most 16 keys' })
  .describe('`user` names the pseudonymous user; feedback by response_id inherits it');
const user = z.string().min(1).max(256);
const tokens = z.number().int().min(1);
const temperature = z.number().min(0).max(2).describe('0 (the default): greedy, the same answer every time');
const topP = z.number().gt(0).max(1);

const model = z.string().max(256).describe('name, name@N, name@champion or name@challenger');

const inputItem = z.looseObject({
  type: z.literal('message', { error: 'only message items are supported' }).optional(),
  role,
  content,
});

export const responsesRequest = z.strictObject({
  model: model.nullish(),
  input: z.union([z.string(), z.array(inputItem).min(1)]),
  instructions: z.string().nullish(),
  max_output_tokens: tokens.nullish(),
  temperature: temperature.nullish(),
  top_p: topP.nullish(),
  previous_response_id: z.string().min(1).max(256).nullish(),
  store: z.boolean().nullish().describe('false: kept only in the memory of this connection'),
  metadata: metadata.nullish(),
  user: user.nullish(),
  safety_identifier: user.nullish(),
  stream: z.boolean().nullish(),
  truncation: z.enum(['auto', 'disabled']).nullish(),
  tools: empty('tools'),
  background: onlyFalse('background'),
  conversation: z.null({ error: 'conversation is not supported; use previous_response_id' }).optional(),
  prompt: z.null({ error: 'stored prompts are not supported' }).optional(),
  text: z
    .looseObject({
      format: z.looseObject({ type: z.literal('text', { error: 'only plain text is supported' }) }).nullish(),
    })
    .nullish(),
  include: ignored,
  max_tool_calls: ignored,
  parallel_tool_calls: ignored,
  prompt_cache_key: ignored,
  prompt_cache_options: ignored,
  prompt_cache_retention: ignored,
  reasoning: ignored,
  service_tier: ignored,
  stream_options: ignored,
  tool_choice: ignored,
  top_logprobs: ignored,
});
export type ResponsesRequest = z.infer<typeof responsesRequest>;

const chatMessage = z.looseObject({ role, content });

export const chatRequest = z.strictObject({
  model: model.nullish(),
  messages: z.array(chatMessage).min(1),
  max_tokens: tokens.nullish(),
  max_completion_tokens: tokens.nullish(),
  temperature: temperature.nullish(),
  top_p: topP.nullish(),
  seed: z.number().int().nullish(),
  stop: z.union([z.string(), z.array(z.string()).max(4)]).nullish(),
  stream: z.boolean().nullish(),
  stream_options: z.looseObject({ include_usage: z.boolean().nullish() }).nullish(),
  store: z.boolean().nullish(),
  metadata: metadata.nullish(),
  user: user.nullish(),
  safety_identifier: user.nullish(),
  n: z.literal(1, { error: 'only one choice is supported' }).nullish(),
  tools: empty('tools'),
  functions: empty('functions'),
  logprobs: onlyFalse('logprobs'),
  response_format: z.looseObject({ type: z.literal('text', { error: 'only plain text is supported' }) }).nullish(),
  frequency_penalty: z.literal(0, { error: 'only 0 is supported' }).nullish(),
  presence_penalty: z.literal(0, { error: 'only 0 is supported' }).nullish(),
  modalities: ignored,
  parallel_tool_calls: ignored,
  prompt_cache_key: ignored,
  prompt_cache_options: ignored,
  prompt_cache_retention: ignored,
  reasoning_effort: ignored,
  service_tier: ignored,
  tool_choice: ignored,
  function_call: ignored,
  verbosity: ignored,
});
export type ChatRequest = z.infer<typeof chatRequest>;

export const classifyRequest = (limits: { classify_texts: number; label_chars: number; text_bytes: number }) =>
  z.strictObject({
    task: z.string().min(1).max(limits.label_chars),
    texts: z
      .array(
        z.string().refine(text => Buffer.byteLength(text) <= limits.text_bytes, {
          error: `is over ${limits.text_bytes} bytes`,
        }),
      )
      .min(1)
      .max(limits.classify_texts, { error: `at most ${limits.classify_texts} texts` }),
    labels: z
      .array(z.string().min(1).max(limits.label_chars))
      .min(1)
      .max(1000)
      .refine(labels => new Set(labels).size === labels.length, { error: 'the same label twice' })
      .nullish(),
    model: model.nullish(),
  });
export type ClassifyBody = z.infer<ReturnType<typeof classifyRequest>>;

interface Issue {
  readonly path: readonly PropertyKey[];
  readonly message: string;
  readonly code?: string | undefined;
  readonly keys?: readonly string[];
  readonly errors?: ReadonlyArray<readonly Issue[]>;
}

/** The most telling issue: inside a union, that of the alternative that got furthest. */
function tell(issue: Issue): { path: string; message: string } {
  const path = issue.path.map(String);
  if (issue.code === 'unrecognized_keys') {
    const key = String(issue.keys?.[0] ?? '').slice(0, 64);
    return { path: [...path, key].join('.'), message: `unknown field ${key}` };
  }
  const inner = (issue.errors ?? [])
    .flatMap(branch => branch.slice(0, 1))
    .sort((a, b) => b.path.length - a.path.length)[0];
  if (inner !== undefined && inner.path.length > 0) {
    const told = tell(inner);
    return { path: [...path, told.path].join('.'), message: told.message };
  }
  return { path: path.join('.'), message: issue.message };
}

/** Throws 'invalid' with the dotted path of the first field at fault. */
export function parseBody<T>(schema: z.ZodType<T>, body: unknown): T {
  if (typeof body !== 'object' || body === null || Array.isArray(body)) {
    throw invalid('', 'the body must be a JSON object');
  }
  const result = schema.safeParse(body);
  if (result.success) return result.data;
  const { path, message } = tell(result.error.issues[0] as Issue);
  throw invalid(path, path === '' || message.includes(path) ? message : `${path}: ${message}`);
}

type Content = z.infer<typeof content>;

export function toMessages(items: ReadonlyArray<{ role: z.infer<typeof role>; content: Content }>): ChatMessage[] {
  return items.map(item => ({
    role: item.role === 'developer' ? 'system' : item.role,
    content: typeof item.content === 'string' ? item.content : item.content.map(({ text }) => text).join(''),
  }));
}

/** The pseudonymous user of a request. */
export const userOf = (request: {
  metadata?: Record<string, string> | null | undefined;
  safety_identifier?: string | null | undefined;
  user?: string | null | undefined;
}): string | undefined => request.metadata?.user ?? request.safety_identifier ?? request.user ?? undefined;
