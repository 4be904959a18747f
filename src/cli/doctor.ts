import { accessSync, constants, existsSync, mkdirSync, statfsSync } from 'node:fs';
import { connect } from 'node:net';
import { availableParallelism, totalmem } from 'node:os';
import { join } from 'node:path';
import { oneLine } from '../base/errors.ts';
import { silentLog } from '../base/log.ts';
import { cacheFolder, loadSettings, type Settings } from '../base/settings.ts';

export interface Check {
  readonly name: string;
  readonly ok: boolean;
  readonly found: string;
  /** What to do, where it is not ok. */
  readonly mend?: string;
}

export interface Diagnosis {
  readonly ok: boolean;
  readonly checks: Check[];
}

async function check(name: string, mend: string, look: () => string | Promise<string>): Promise<Check> {
  try {
    return { name, ok: true, found: await look() };
  } catch (error) {
    return { name, ok: false, found: oneLine(error), mend };
  }
}

const reach = (host: string, port: number): Promise<string> =>
  new Promise((done, fail) => {
    const socket = connect({ host, port, timeout: 3000 }, () => {
      socket.destroy();
      done(`${host}:${port} answers`);
    });
    socket.on('timeout', () => socket.destroy(new Error(`${host}:${port} does not answer within 3 s`)));
    socket.on('error', fail);
  });

function services(settings: Settings): Promise<Check>[] {
  const list: Promise<Check>[] = [];
  if (settings.database_url === undefined) {
    list.push(
      check('embedded PostgreSQL', 'npm install on a supported platform, or set DATABASE_URL', async () => {
        const { embeddedBinaries } = await import('../store/embedded/binaries.ts');
        return embeddedBinaries();
      }),
    );
  } else {
    list.push(
      check('PostgreSQL', 'check DATABASE_URL and that the server runs', async () => {
        const { connect: open } = await import('../store/database.ts');
        const db = open(settings.database_url!, { log: silentLog, max: 1 });
        try {
          const { rows } = await db.query<{ server_version: string }>('show server_version');
          return `version ${rows[0]?.server_version}`;
        } finally {
          await db.close();
        }
      }),
    );
  }
  for (const broker of settings.kafka.brokers) {
    const [host, port] = broker.split(':');
    list.push(
      check(`Kafka ${broker}`, 'check KAFKA_BROKERS and that the broker runs', () =>
        reach(host!, Number(port ?? 9092)),
      ),
    );
  }
  return list;
}

/** What is installed, reachable, missing, and the mend. */
export async function run(options: { data?: string | undefined; config?: string | undefined }): Promise<Diagnosis> {
  const checks: Check[] = [];
  const [major] = process.versions.node.split('.').map(Number);
  checks.push({
    name: 'Node',
    ok: major! >= 20,
    found: process.version,
    ...(major! >= 20 ? {} : { mend: 'install Node 20.19 or newer' }),
  });
  checks.push({
    name: 'machine',
    ok: true,
    found: `${availableParallelism()} cores, ${Math.round(totalmem() / 2 ** 30)} GiB`,
  });
  let settings: Settings | undefined;
  checks.push(
    await check('settings', 'mend the line named', () => {
      settings = loadSettings({ file: options.config, data: options.data });
      return settings.file ?? 'defaults (no config/learnd.yaml here)';
    }),
  );
  checks.push(
    await check('native TensorFlow', 'npm run setup', async () => {
      // The module alone loads nothing: the binding is opened by the first call.
      const { tensorflow } = await import('../learn/tensor/backend.ts');
      return `loads, backend ${tensorflow().getBackend()}`;
    }),
  );
  checks.push(
    await check('llama.cpp', 'npm install', async () => {
      const { getLlama } = await import('node-llama-cpp');
      const llama = await getLlama({ build: 'never', gpu: false });
      await llama.dispose();
      return 'loads';
    }),
  );
  if (settings) {
    const { data, base } = settings;
    checks.push(
      await check('data directory', 'choose another with --data, or give this one to your user', () => {
        mkdirSync(data, { recursive: true });
        accessSync(data, constants.W_OK);
        const disk = statfsSync(data);
        return `${data}, ${Math.round((disk.bavail * disk.bsize) / 2 ** 30)} GiB free`;
      }),
    );
    if (base === 'smollm2-135m') {
      checks.push({
        name: 'base model',
        ok: true,
        found: existsSync(join(cacheFolder(), 'bases')) ? 'cached' : 'fetched at first start',
      });
    }
    checks.push(...(await Promise.all(services(settings))));
  }
  return { ok: checks.every(c => c.ok), checks };
}

export const human = (d: Diagnosis): string =>
  d.checks
    .map(c => `${c.ok ? 'ok     ' : 'MISSING'}  ${c.name}: ${c.found}${c.mend ? ` -> ${c.mend}` : ''}`)
    .join('\n');
