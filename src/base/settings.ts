import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseDocument } from 'yaml';
import { z } from 'zod';
import { invalid } from './errors.ts';

/** Settings: one schema; defaults < file (config/learnd.yaml) < environment; resolved once, frozen, hashed. */

const name = z.string().min(1).max(256);

const schema = z.strictObject({
  name: z
    .string()
    .regex(/^[a-z][a-z0-9._-]{0,63}$/, 'lower-case letters, digits, ".", "_" and "-", starting with a letter')
    .default('learnd')
    .describe("The model's name; versions are name@1, name@2 …"),
  base: z.string().min(1).default('smollm2-135m').describe('smollm2-135m, a path, a hub id (org/name), or scratch'),
  tasks: z
    .array(z.strictObject({ name, labels: z.array(name).min(2).max(1000) }))
    .default([])
    .describe('Classification tasks; the set of labels is public'),
  sources: z
    .array(z.strictObject({ name, public: z.boolean().default(false) }))
    .default([])
    .describe('Document sources; a public one may be trained on without noise'),
  roles: z
    .array(z.enum(['ingest', 'control', 'serve']))
    .min(1)
    .default(['ingest', 'control', 'serve'])
    .describe('Which parts of the daemon run in this process'),
  host: z.string().default('127.0.0.1').describe('Address to listen on'),
  port: z.number().int().min(0).max(65535).default(8790).describe('Port to listen on; 0 takes a free one'),
  database_url: z
    .string()
    .optional()
    .describe('PostgreSQL; without it an embedded server is started in the data directory'),
  admin_key: z
    .string()
    .min(32)
    .optional()
    .describe(
      'An admin key made elsewhere (a secret of the cluster), 32 characters or more; without it one is made on first start',
    ),
  artifacts_url: z.string().optional().describe('Folder for model files; default: artifacts/ in the data directory'),
  kafka: z
    .strictObject({
      brokers: z.array(z.string()).default([]).describe('host:port; empty: no Kafka'),
      group_id: z.string().default('learnd'),
      client_id: z.string().default('learnd'),
      start: z.enum(['earliest', 'latest']).default('earliest').describe('Where a new group starts'),
      tls: z.boolean().default(false),
      tls_ca: z.string().optional().describe('File with the certificate authority, PEM'),
      tls_cert: z.string().optional().describe('File with the client certificate, PEM'),
      tls_key: z.string().optional().describe('File with the client key, PEM'),
      sasl_mechanism: z.enum(['plain', 'scram-sha-256', 'scram-sha-512']).optional(),
      sasl_username: z.string().optional(),
      sasl_password: z.string().optional(),
      exchanges: z.boolean().default(false).describe('Publish every exchange to learnd.exchanges'),
    })
    .prefault({}),
  limits: z
    .strictObject({
      event_bytes: z
        .number()
        .int()
        .min(1024)
        .default(1 << 20),
      label_chars: z.number().int().min(1).default(256),
      text_bytes: z
        .number()
        .int()
        .min(1)
        .default(64 << 10),
      batch_events: z.number().int().min(1).default(1000),
      body_bytes: z
        .number()
        .int()
        .min(1024)
        .default(32 << 20),
      classify_texts: z.number().int().min(1).default(256),
    })
    .prefault({}),
  holdout: z
    .strictObject({
      share: z.number().gt(0).lt(1).default(0.2).describe('Share of users kept for evaluation, never trained on'),
    })
    .prefault({}),
  privacy: z
    .strictObject({
      expected_users: z
        .number()
        .int()
        .min(1)
        .default(200)
        .describe(
          'Public constant: users expected in a round; the divisor of noised sums and the basis of sampling rates',
        ),
      examples_per_user: z
        .number()
        .int()
        .min(1)
        .default(32)
        .describe("At most so many of a user's examples count in a round"),
      canaries: z
        .number()
        .int()
        .min(0)
        .default(4)
        .describe('Canary users that audit each private round; at most 2% of the expected users'),
    })
    .prefault({}),
  monitor: z
    .strictObject({
      every_seconds: z.number().min(0.05).default(2),
      sample: z.number().int().min(1).default(256).describe('Most rows of each kind scored a turn'),
      window: z.number().int().min(10).default(500).describe('Labelled rows in the F1 window'),
      minimum: z.number().int().min(1).default(50).describe('Rows before a figure is known'),
    })
    .prefault({}),
  policy: z
    .strictObject({
      file: z.string().optional().describe('Default: config/policies.yaml beside the settings'),
      every_seconds: z.number().min(0.05).default(2),
    })
    .prefault({}),
  serve: z
    .strictObject({
      sequences: z.number().int().min(1).max(64).default(4).describe('Answers generated side by side'),
      context: z.number().int().min(64).default(2048).describe('Tokens of context for each answer'),
      threads: z.number().int().min(1).default(1),
      queue: z.number().int().min(0).default(64).describe('Requests waiting; one more is answered 429'),
      max_output_tokens: z.number().int().min(1).default(512),
      drain_seconds: z.number().min(0).default(20),
    })
    .prefault({}),
  train: z
    .strictObject({
      threads: z.number().int().min(1).default(2),
      feature_layer: z.number().int().min(1).default(10).describe('Blocks kept in the feature model of a head'),
      attempts: z.number().int().min(1).default(3).describe('Tries of one round before it fails'),
    })
    .prefault({}),
  telemetry: z
    .strictObject({
      otlp_endpoint: z.string().optional().describe('http://host:4318: traces and metrics are sent there'),
      log: z.enum(['debug', 'info', 'warn', 'error']).default('info'),
    })
    .prefault({}),
});

export type Settings = Readonly<z.infer<typeof schema>> & {
  /** Absolute data directory. */
  readonly data: string;
  /** sha256 over the resolved settings, secrets left out; written on every row they influenced. */
  readonly hash: string;
  /** The settings file read, if any. */
  readonly file: string | undefined;
};

/** Environment variables that have a well-known name beside the generated one. */
const ALIASES: Record<string, string> = {
  DATABASE_URL: 'database_url',
  KAFKA_BROKERS: 'kafka.brokers',
  ARTIFACTS_URL: 'artifacts_url',
  OTEL_EXPORTER_OTLP_ENDPOINT: 'telemetry.otlp_endpoint',
};

const SECRET = new Set(['database_url', 'admin_key', 'kafka.sasl_password']);

type Json = Record<string, unknown>;

/** Every leaf of the schema as a dotted path, so that each has an environment variable: kafka.group_id = LEARND_KAFKA_GROUP_ID. */
function leaves(value: unknown, prefix = ''): string[] {
  const json = value as { properties?: Record<string, unknown> };
  if (!json.properties) return [prefix];
  return Object.entries(json.properties).flatMap(([key, child]) => leaves(child, prefix ? `${prefix}.${key}` : key));
}

export const settingPaths: readonly string[] = leaves(z.toJSONSchema(schema, { io: 'input' }));
export const environmentName = (path: string): string => `LEARND_${path.replaceAll('.', '_').toUpperCase()}`;
export const settingsJsonSchema = (): unknown => z.toJSONSchema(schema, { io: 'input' });

function fromText(path: string, text: string): unknown {
  if (path === 'kafka.brokers' || path === 'roles')
    return text
      .split(',')
      .map(part => part.trim())
      .filter(part => part !== '');
  if (path === 'tasks' || path === 'sources') {
    try {
      return JSON.parse(text);
    } catch (cause) {
      throw invalid(environmentName(path), `${environmentName(path)} is not JSON: ${(cause as Error).message}`, {
        cause,
      });
    }
  }
  if (text === 'true' || text === 'false') return text === 'true';
  return /^-?\d+(\.\d+)?(e-?\d+)?$/i.test(text) ? Number(text) : text;
}

function put(target: Json, path: string, value: unknown): void {
  const keys = path.split('.');
  let at = target;
  for (const key of keys.slice(0, -1)) {
    const next = at[key];
    if (typeof next !== 'object' || next === null || Array.isArray(next)) at[key] = {};
    at = at[key] as Json;
  }
  at[keys.at(-1)!] = value;
}

function freeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value);
    for (const child of Object.values(value)) freeze(child);
  }
  return value;
}

export interface SettingsInput {
  /** A settings file; without it `config/learnd.yaml` below the working directory is read where it exists. */
  file?: string | undefined;
  env?: NodeJS.ProcessEnv;
  /** From the command line; stronger than all else. Dotted paths. */
  overrides?: Record<string, unknown>;
  data?: string | undefined;
  cwd?: string;
}

/** @throws LearndError('invalid') naming the file, the line and the key. */
export function loadSettings(input: SettingsInput = {}): Settings {
  const env = input.env ?? process.env;
  const cwd = input.cwd ?? process.cwd();
  const wanted = input.file ?? env.LEARND_CONFIG;
  const file = resolve(cwd, wanted ?? 'config/learnd.yaml');
  let raw: Json = {};
  let text: string | undefined;
  try {
    text = readFileSync(file, 'utf8');
  } catch (cause) {
    if (wanted !== undefined)
      throw invalid('config', `cannot read the settings file ${file}: ${(cause as Error).message}`, { cause });
  }
  const document = text === undefined ? undefined : parseDocument(text);
  if (document) {
    const problem = document.errors[0];
    if (problem)
      throw invalid('config', `${file}:${problem.linePos?.[0]?.line ?? 1}: ${problem.message.split('\n')[0]}`);
    const value: unknown = document.toJS();
    if (value !== null && value !== undefined) {
      if (typeof value !== 'object' || Array.isArray(value))
        throw invalid('config', `${file}: the settings must be a mapping of keys to values`);
      raw = value as Json;
    }
  }
  for (const path of settingPaths) {
    const given = env[environmentName(path)];
    if (given !== undefined) put(raw, path, fromText(path, given));
  }
  for (const [variable, path] of Object.entries(ALIASES)) {
    const given = env[variable];
    if (given !== undefined && given !== '') put(raw, path, fromText(path, given));
  }
  for (const [path, value] of Object.entries(input.overrides ?? {})) if (value !== undefined) put(raw, path, value);
  const result = schema.safeParse(raw);
  if (!result.success) {
    const issue = result.error.issues[0]!;
    const key = [...issue.path.map(String), ...(issue.code === 'unrecognized_keys' ? [issue.keys[0]!] : [])].join('.');
    let where = '';
    if (document && text !== undefined) {
      const node = document.getIn(
        issue.code === 'unrecognized_keys' ? [...issue.path, issue.keys[0]!] : issue.path,
        true,
      ) as { range?: [number, number, number] } | undefined;
      if (node?.range) where = `${file}:${text.slice(0, node.range[0]).split('\n').length}: `;
    }
    const said = issue.code === 'unrecognized_keys' ? `unknown setting "${key}"` : `${key}: ${issue.message}`;
    throw invalid(key, `${where}${said}`, { hint: 'docs/settings.md lists every setting' });
  }
  const seen = new Set<string>();
  for (const task of result.data.tasks) {
    if (seen.has(task.name)) throw invalid('tasks', `task "${task.name}" is declared twice`);
    seen.add(task.name);
    if (new Set(task.labels).size !== task.labels.length)
      throw invalid('tasks', `task "${task.name}" declares a label twice`);
  }
  const hashed: Json = structuredClone(result.data) as Json;
  for (const path of SECRET) put(hashed, path, undefined);
  const hash = createHash('sha256').update(JSON.stringify(hashed)).digest('hex');
  return freeze({
    ...result.data,
    data: resolve(cwd, input.data ?? env.LEARND_DATA ?? 'data'),
    hash,
    file: text === undefined ? undefined : file,
  });
}

/** Downloaded bases and native builds, shared by every deployment of this user. */
export const cacheFolder = (env: NodeJS.ProcessEnv = process.env): string =>
  resolve(env.LEARND_CACHE ?? join(env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'learnd'));
