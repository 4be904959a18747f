import type { Command } from 'commander';
import { laterVersion } from '../base/errors.ts';
import { action, fail, integer, later, reply } from './frame.ts';

/** Commands that start a daemon or talk to one. Each loads its file when it is asked for, so that `--help` costs no model library. */

type Options = Record<string, unknown>;
const text = (value: unknown): string | undefined => value as string | undefined;

async function client(options: Options) {
  const { connectDaemon } = await import('./client.ts');
  return connectDaemon({ data: text(options.data) });
}

const withData = (command: Command): Command => command.option('--data <dir>', "the daemon's data directory");

function start(program: Command): void {
  program
    .command('start')
    .description('start the daemon')
    .option('--config <file>', 'settings (default: config/learnd.yaml where it exists)')
    .option('--policies <file>', 'policies (default: config/policies.yaml)')
    .option('--data <dir>', 'data directory (default: data)')
    .option('--port <n>', 'port to listen on (default: 8790)', integer)
    .option('--json', 'accepted for symmetry; log lines are printed as they are')
    .action(async (options: Options) => {
      try {
        const { run } = await import('./start.ts');
        await run({
          config: text(options.config),
          policies: text(options.policies),
          data: text(options.data),
          port: options.port as number | undefined,
        });
      } catch (error) {
        fail(error);
        process.exit();
      }
    });
}

function use(program: Command): void {
  const send = withData(program.command('send').argument('<files...>', 'CSV, JSONL, text or - for standard input'))
    .description('send events from files')
    .option('--type <type>', 'label, document, rating, correction, preference')
    .option('--text <column>', 'column that holds the text')
    .option('--label <column>', 'column that holds the label')
    .option('--task <name>', 'task the labels belong to')
    .option('--user <column>', 'column that holds the user')
    .option('--source <name>', 'source of the events');
  action(send, async (files, options) => {
    const { run, human } = await import('./send.ts');
    return reply(await run({ ...options, files } as never, await client(options)), human);
  });

  const ask = withData(program.command('ask').argument('<prompt>'))
    .description('ask the live model')
    .option('--model <name>', 'name, name@N or name@champion');
  action(ask, async ([prompt], options) => {
    const { run, human } = await import('./ask.ts');
    return reply(await run({ prompt: prompt!, model: text(options.model) }, await client(options)), human);
  });

  action(
    withData(program.command('status')).description('champion, signals, alarms, budget, round'),
    async (_, options) => {
      const { run, human } = await import('./status.ts');
      return reply(await run(await client(options)), human);
    },
  );
}

function lists(program: Command): void {
  action(withData(program.command('rounds')).description('rounds, newest first'), async (_, options) => {
    const { rounds, humanRounds } = await import('./lists.ts');
    return reply(await rounds(await client(options)), humanRounds);
  });
  action(withData(program.command('versions')).description('versions, newest first'), async (_, options) => {
    const { versions, humanVersions } = await import('./lists.ts');
    return reply(await versions(await client(options)), humanVersions);
  });
  const decisions = withData(program.command('decisions')).description('decisions, newest first');
  action(decisions.option('--why-not', 'what kept each rule from firing (not in this version)'), async (_, options) => {
    if (options.whyNot === true) throw laterVersion('decisions --why-not');
    const { decisions: list, humanDecisions } = await import('./lists.ts');
    return reply(await list(await client(options)), humanDecisions);
  });
}

function change(program: Command): void {
  action(
    withData(program.command('promote').argument('<version>')).description('make a version the champion'),
    async ([version], options) => {
      const { promote, humanAlias } = await import('./admin.ts');
      return reply(await promote(version!, await client(options)), humanAlias);
    },
  );
  action(
    withData(program.command('rollback').argument('[version]')).description(
      'go back to the previous champion, or to a version',
    ),
    async ([version], options) => {
      const { rollback, humanAlias } = await import('./admin.ts');
      return reply(await rollback(version, await client(options)), humanAlias);
    },
  );
  const erase = withData(program.command('erase').argument('<user>')).description(
    "erase a user's rows; prints the receipt",
  );
  action(erase.option('--reason <text>', 'kept on the receipt'), async ([user], options) => {
    const { erase: run, humanReceipt } = await import('./admin.ts');
    return reply(await run(user!, text(options.reason), await client(options)), humanReceipt);
  });
}

function keys(program: Command): void {
  const group = program.command('keys').description('API keys: list, create, revoke');
  action(
    withData(group.command('list', { isDefault: true })).description('every key, without its token'),
    async (_, options) => {
      const { list, humanList } = await import('./keys.ts');
      return reply(await list(await client(options)), humanList);
    },
  );
  const create = withData(group.command('create').argument('<name>')).description('a new key; its token is shown once');
  action(create.option('--scopes <list>', 'of respond, feedback, admin; with commas'), async ([name], options) => {
    const { create: run, humanNew } = await import('./keys.ts');
    return reply(await run(name!, text(options.scopes), await client(options)), humanNew);
  });
  action(
    withData(group.command('revoke').argument('<id>')).description('end a key, by the id that the list shows'),
    async ([id], options) => {
      const { revoke, humanRevoked } = await import('./keys.ts');
      return reply(await revoke(id!, await client(options)), humanRevoked);
    },
  );
}

export function daemonCommands(program: Command): void {
  keys(program);
  start(program);
  use(program);
  lists(program);
  change(program);
  const doctor = withData(program.command('doctor')).description('what is installed, reachable, missing, and the mend');
  action(doctor.option('--config <file>', 'settings'), async (_, options) => {
    const { run, human } = await import('./doctor.ts');
    const result = await run({ data: text(options.data), config: text(options.config) });
    return reply(result, human, result.ok ? 0 : 1);
  });
  later(program, 'support-bundle', 'pack logs and state for a report');
}
