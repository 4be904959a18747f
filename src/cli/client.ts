import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { LearndError } from '../base/errors.ts';

/** The command line's way to a running daemon: its address from `daemon.json`, its key from `admin.key`, both in the data directory. */
export interface DaemonClient {
  readonly url: string;
  get(path: string): Promise<unknown>;
  post(path: string, body?: unknown, contentType?: string): Promise<unknown>;
  /** The server-sent events that answer a POST, as they come. */
  events(path: string, body: unknown): AsyncGenerator<Record<string, unknown>>;
}

export interface DaemonFile {
  readonly pid: number;
  readonly url: string;
  readonly started_at: string;
}

function read(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8').trim();
  } catch {
    return undefined; // absent: said below, with what to do
  }
}

/** @throws LearndError('not_ready') when no daemon runs on that data directory. */
export function connectDaemon(options: { data?: string | undefined; env?: NodeJS.ProcessEnv } = {}): DaemonClient {
  const env = options.env ?? process.env;
  const data = resolve(options.data ?? env.LEARND_DATA ?? 'data');
  const file = read(join(data, 'daemon.json'));
  if (file === undefined && env.LEARND_URL === undefined) {
    throw new LearndError('not_ready', `no daemon is running on ${data}`, {
      hint: 'start one with npm start, or name its data directory with --data',
    });
  }
  const url = env.LEARND_URL ?? (JSON.parse(file!) as DaemonFile).url;
  const key = env.LEARND_KEY ?? read(join(data, 'admin.key'));
  if (key === undefined) {
    throw new LearndError(
      'unauthorized',
      `no key: ${join(data, 'admin.key')} cannot be read and LEARND_KEY is not set`,
    );
  }
  async function send(method: string, path: string, body: unknown, contentType: string): Promise<Response> {
    try {
      return await fetch(`${url}${path}`, {
        method,
        headers: { authorization: `Bearer ${key}`, ...(body === undefined ? {} : { 'content-type': contentType }) },
        body: body === undefined ? undefined : typeof body === 'string' ? body : JSON.stringify(body),
      });
    } catch (cause) {
      throw new LearndError('not_ready', `the daemon at ${url} does not answer`, {
        cause,
        hint: 'is it running? npm start',
      });
    }
  }
  async function call(method: string, path: string, body: unknown, contentType: string): Promise<unknown> {
    const response = await send(method, path, body, contentType);
    return answerOf(response);
  }
  async function answerOf(response: Response): Promise<unknown> {
    const text = await response.text();
    let json: unknown;
    try {
      json = text === '' ? undefined : JSON.parse(text);
    } catch {
      json = undefined; // a text answer: returned as it is below
    }
    if (!response.ok) {
      const error = (json as { error?: { message?: string; code?: string; param?: string; hint?: string } } | undefined)
        ?.error;
      throw new LearndError(
        response.status === 404 ? 'not_found' : 'invalid',
        error?.message ?? `${response.status} ${text.slice(0, 200)}`,
        {
          field: error?.param ?? undefined,
          data: { status: response.status, code: error?.code },
        },
      );
    }
    return json ?? text;
  }
  async function* events(path: string, body: unknown): AsyncGenerator<Record<string, unknown>> {
    const response = await send('POST', path, body, 'application/json');
    if (!response.ok || response.body === null) {
      await answerOf(response);
      return;
    }
    let rest = '';
    const decoder = new TextDecoder();
    for await (const chunk of response.body) {
      const lines = (rest + decoder.decode(chunk as Uint8Array, { stream: true })).split('\n');
      rest = lines.pop()!;
      for (const line of lines)
        if (line.startsWith('data: {')) yield JSON.parse(line.slice('data: '.length)) as Record<string, unknown>;
    }
  }
  return {
    url,
    events,
    get: path => call('GET', path, undefined, ''),
    post: (path, body, contentType = 'application/json') => call('POST', path, body, contentType),
  };
}
