/** One answer, whatever API asked for it: the version leased, the history put before the input, generated, stored, counted. */
import type { Clock } from '../base/clock.ts';
import { asLearndError, invalid, LearndError } from '../base/errors.ts';
import type { Admission } from './admission.ts';
import type { EngineProcess } from './engine/engine.ts';
import type { GenerateResult } from './engine/protocol.ts';
import type { Exchanges } from './exchanges.ts';
import type { ChatMessage, Exchange, ServePorts } from './ports.ts';
import type { Lease, VersionTable } from './swap.ts';

export interface Answering {
  readonly ports: ServePorts;
  readonly engine: EngineProcess;
  readonly versions: VersionTable;
  readonly exchanges: Exchanges;
  readonly admission: Admission;
  readonly clock: Clock;
  readonly defaultMaxTokens: number;
}

export interface Question {
  readonly api: 'responses' | 'chat';
  readonly responseId: string;
  readonly model: string | undefined;
  readonly instructions: string | undefined;
  readonly input: readonly ChatMessage[];
  readonly previousResponseId: string | undefined;
  readonly maxTokens: number | undefined;
  readonly temperature: number;
  readonly topP: number;
  readonly seed: number | undefined;
  readonly stop: readonly string[];
  readonly truncate: boolean;
  readonly store: boolean;
  readonly user: string | undefined;
  readonly metadata: Readonly<Record<string, string>>;
}

/** Exchanges with `store: false`: they live as long as the connection. */
export type ConnectionMemory = Map<string, Exchange>;

export interface Listener {
  /** The request is sound and `version` answers; before any text. */
  onStart(version: string): void;
  onDelta(text: string): void;
  readonly signal: AbortSignal;
  readonly memory: ConnectionMemory;
}

export interface Answer {
  readonly version: string;
  readonly text: string;
  readonly result: GenerateResult;
}

const TURNS_AT_MOST = 100;
const CONNECTION_MEMORY_AT_MOST = 100;

/** What `model` names, leased. @throws 'not_found' (model_not_found), 'not_ready'. */
export async function leaseModel(at: Answering, model: string | undefined): Promise<Lease> {
  const name = at.ports.modelName();
  if (model === undefined || model === name || model === `${name}@champion` || model === at.versions.champion) {
    return await at.versions.acquire('champion');
  }
  const resolved = await at.ports.resolveVersion(model);
  if (resolved.found) return await at.versions.acquire(resolved.files);
  throw new LearndError('not_found', `unknown model ${model}: ${resolved.reason}`, {
    field: 'model',
    data: { code: 'model_not_found' },
  });
}

/** The messages that `previous_response_id` leads to, oldest first. Instructions of earlier turns do not carry over. */
async function history(at: Answering, first: string | undefined, memory: ConnectionMemory): Promise<ChatMessage[]> {
  const turns: ChatMessage[][] = [];
  for (let id = first; id !== undefined && turns.length < TURNS_AT_MOST; ) {
    const exchange: Exchange | undefined = memory.get(id) ?? (await at.exchanges.load(id));
    if (exchange === undefined) {
      if (id !== first) break; // an older turn has been erased or has expired: the conversation begins after it
      throw invalid('previous_response_id', `previous response ${id} not found`, {
        data: { code: 'previous_response_not_found' },
      });
    }
    turns.push([...exchange.input, { role: 'assistant', content: exchange.output }]);
    id = exchange.previousResponseId;
  }
  return turns.reverse().flat();
}

/**
 * @throws before `onStart`: 'invalid', 'not_found', 'busy', 'not_ready'; after it: 'dependency' when the engine dies. A cancelled
 * answer resolves with reason 'cancelled' and is not stored.
 */
export function answer(at: Answering, question: Question, listener: Listener): Promise<Answer> {
  return at.admission.run(async () => {
    const before = await history(at, question.previousResponseId, listener.memory);
    const instructions: ChatMessage[] =
      question.instructions === undefined ? [] : [{ role: 'system', content: question.instructions }];
    const lease = await leaseModel(at, question.model);
    const began = performance.now();
    const createdAt = at.clock.now();
    let firstTokenMs: number | undefined;
    let started = false;
    let text = '';
    const served = (result: GenerateResult | undefined, error?: string) =>
      at.ports.onServed({
        kind: question.api,
        version: lease.version,
        latencyMs: performance.now() - began,
        firstTokenMs,
        inputTokens: result?.inputTokens ?? 0,
        outputTokens: result?.outputTokens ?? 0,
        error,
        cancelled: result?.reason === 'cancelled',
      });
    try {
      const result = await at.engine.call(
        'generate',
        {
          version: lease.version,
          messages: [...instructions, ...before, ...question.input],
          maxTokens: question.maxTokens ?? at.defaultMaxTokens,
          temperature: question.temperature,
          topP: question.topP,
          stop: question.stop,
          truncate: question.truncate,
          ...(question.seed !== undefined && { seed: question.seed }),
        },
        {
          signal: listener.signal,
          onDelta: delta => {
            if (!started) {
              started = true;
              listener.onStart(lease.version);
            }
            if (delta === '') return;
            firstTokenMs ??= performance.now() - began;
            text += delta;
            listener.onDelta(delta);
          },
        },
      );
      served(result);
      if (result.reason !== 'cancelled') {
        const exchange: Exchange = {
          responseId: question.responseId,
          previousResponseId: question.previousResponseId,
          version: lease.version,
          api: question.api,
          instructions: question.instructions,
          input: question.input,
          output: text,
          status: result.reason === 'length' ? 'incomplete' : 'completed',
          incompleteReason: result.reason === 'length' ? 'max_output_tokens' : undefined,
          user: question.user,
          metadata: question.metadata,
          inputTokens: result.inputTokens,
          outputTokens: result.outputTokens,
          createdAt,
          latencyMs: performance.now() - began,
          firstTokenMs,
        };
        // Stored before the answer is called complete, so that feedback on it finds it.
        if (question.store) await at.exchanges.save(exchange);
        else remember(listener.memory, exchange);
      }
      return { version: lease.version, text, result };
    } catch (thrown) {
      const error = asLearndError(thrown);
      if (error.code === 'canceled') served(cancelled(lease.version));
      else if (error.code !== 'invalid') served(undefined, error.code);
      throw error;
    } finally {
      lease.release();
    }
  });
}

const cancelled = (version: string): GenerateResult => ({
  version,
  reason: 'cancelled',
  inputTokens: 0,
  cachedTokens: 0,
  outputTokens: 0,
});

function remember(memory: ConnectionMemory, exchange: Exchange): void {
  memory.set(exchange.responseId, exchange);
  if (memory.size > CONNECTION_MEMORY_AT_MOST) memory.delete(memory.keys().next().value!);
}
