import OpenAI from 'openai';
import { ResponsesWS } from 'openai/resources/responses/ws';
import { sleep } from '../../src/base/clock.ts';
import type { TestDaemon } from './daemon.ts';

/** One answer as an open socket saw it. */
export interface Streamed {
  /** The version its first frame named. */
  readonly version: string;
  /** The version every frame that carries a response named. */
  readonly versions: readonly string[];
  readonly text: string;
  readonly deltas: number;
  readonly error: string | undefined;
  /** A classification made between two answers: the version's scores as text. */
  readonly probe: { readonly model: string; readonly scores: string } | undefined;
}

/** The official client, unchanged, asking over one socket that stays open until `signal`. */
export async function streamForever(
  daemon: TestDaemon,
  into: Streamed[],
  signal: AbortSignal,
  options: {
    input?: string;
    maxTokens?: number;
    probe?: { task: string; text: string } | null;
    /** Between two answers; none unless given. */
    pauseMs?: number;
  } = {},
): Promise<void> {
  const client = new OpenAI({ apiKey: daemon.key, baseURL: `${daemon.url}/v1` });
  const socket = new ResponsesWS(client);
  // An `error` frame is emitted as an event and as an error: by the second nobody below listens any more.
  socket.on('error', () => undefined);
  const probe = options.probe === undefined ? { task: 'intent', text: 'i forgot my pin code' } : options.probe;
  try {
    while (!signal.aborted) {
      const versions: string[] = [];
      let text = '';
      let deltas = 0;
      let error: string | undefined;
      await new Promise<void>(done => {
        const end = (): void => {
          socket.off('event', onEvent);
          socket.off('error', onError);
          done();
        };
        const onEvent = (event: {
          type: string;
          delta?: string;
          response?: { model?: string; error?: { message?: string } | null };
        }): void => {
          if (event.response?.model) versions.push(event.response.model);
          if (event.type === 'response.output_text.delta') {
            text += event.delta;
            deltas++;
          }
          if (event.type === 'response.failed') error = event.response?.error?.message ?? 'failed';
          if (event.type === 'error') error = JSON.stringify(event);
          if (['response.completed', 'response.failed', 'response.incomplete', 'error'].includes(event.type)) end();
        };
        const onError = (thrown: Error): void => {
          error = thrown.message;
          end();
        };
        socket.on('event', onEvent as never);
        socket.on('error', onError);
        socket.send({
          type: 'response.create',
          model: 'learnd',
          input: options.input ?? 'tell me about my account',
          max_output_tokens: options.maxTokens ?? 16,
          temperature: 0,
        } as never);
      });
      let probed: Streamed['probe'];
      if (probe !== null) {
        const answer = (await daemon.post('/v1/classify', { task: probe.task, texts: [probe.text] })) as {
          model: string;
          results: { scores: Record<string, number> }[];
        };
        probed = { model: answer.model, scores: JSON.stringify(answer.results[0]?.scores) };
      }
      if (options.pauseMs !== undefined) await sleep(options.pauseMs);
      into.push({ version: versions[0] ?? 'none', versions, text, deltas, error, probe: probed });
    }
  } finally {
    socket.close();
  }
}
