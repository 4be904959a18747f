import { asLearndError, oneLine } from '../base/errors.ts';
import { createLog } from '../base/log.ts';
import { loadSettings } from '../base/settings.ts';
import { ensureNative } from './native.ts';

export interface StartOptions {
  config?: string | undefined;
  policies?: string | undefined;
  data?: string | undefined;
  port?: number | undefined;
}

/** Starts the daemon and stays until it is told to stop. A second signal ends it at once. */
export async function run(options: StartOptions): Promise<void> {
  const settings = loadSettings({
    file: options.config,
    data: options.data,
    overrides: { port: options.port, 'policy.file': options.policies },
  });
  const log = createLog({ level: settings.telemetry.log });
  ensureNative();
  const { startDaemon } = await import('../daemon.ts');
  const starting = new AbortController();
  const begun = startDaemon({ settings, log, signal: starting.signal });
  let stopping = false;
  const end = async (signal: string) => {
    if (stopping) process.exit(1);
    stopping = true;
    log.info(`${signal}: stopping; answers in flight finish first`);
    starting.abort();
    try {
      await begun.then(
        daemon => daemon.stop(),
        () => undefined, // the start was called off, and cleaned up after itself
      );
      log.info('stopped');
      process.exit(0);
    } catch (error) {
      log.error(`stopping failed: ${oneLine(error)}`);
      process.exit(1);
    }
  };
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => void end(signal));
  process.on('unhandledRejection', error =>
    log.error(`a background task failed: ${oneLine(error)}`, { stack: asLearndError(error).stack }),
  );
  const daemon = await begun.catch(error => {
    if (!stopping) throw error;
  });
  if (daemon === undefined || stopping) return;
  if (daemon.newKey !== undefined) {
    process.stdout.write(`\nadmin key (shown once; also in ${settings.data}/admin.key): ${daemon.newKey}\n`);
  }
  const at = options.data === undefined ? '' : ` --data ${options.data}`;
  process.stdout.write(
    [
      '',
      `learnd answers as "${settings.name}"`,
      `  HTTP       ${daemon.url}/v1/responses`,
      `  WebSocket  ${daemon.url.replace(/^http/, 'ws')}/v1/responses`,
      `  metrics    ${daemon.url}/metrics`,
      'try next:',
      `  npx learnd ask "What can you do?"${at}`,
      `  npx learnd send examples/inquiries.csv --type label --task intent --text text --label label --user user${at}`,
      `  npx learnd status${at}`,
      '',
    ].join('\n'),
  );
  await daemon.done;
}
