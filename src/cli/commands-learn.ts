import { type Command, Option } from 'commander';
import { buildCommands } from './commands-build.ts';
import { pretrainCommand } from './commands-pretrain.ts';
import { action, integer, later, number, reply } from './frame.ts';

/** Commands that need no daemon: policies, training, drift, privacy. */

const asJson = (result: unknown): string => JSON.stringify(result, null, 2);

function policyCommands(program: Command): void {
  const policy = program.command('policy').description('retraining policies');
  const check = policy
    .command('check')
    .argument('<file>')
    .description('check a policy file; non-zero when it is wrong');
  action(check.option('--config <file>', 'settings'), async ([file], options) => {
    const { run, human } = await import('./policy.ts');
    const result = await run({ file: file!, config: options.config as string | undefined });
    return reply(result, human, result.valid ? 0 : 1);
  });
  later(policy, 'explain', 'say in words what a policy does');
  later(policy, 'backtest', 'replay the past against a policy');
}

function trainCommands(program: Command): void {
  const train = program
    .command('train')
    .description('train a model outside the daemon')
    .option('--model <model>', 'GGUF file, model folder, or smollm2-135m')
    .option('--file <file>', 'text (a line a unit), JSONL or CSV')
    .addOption(
      new Option(
        '--method <method>',
        'full weights; LoRA; norm scales; bias (vectors where the model has them, else a bias on the vocabulary); head (a classifier)',
      )
        .choices(['auto', 'full', 'lora', 'norms', 'bias', 'head'])
        .default('auto'),
    )
    .option('--epsilon <e>', 'privacy to spend, or none')
    .option('--delta <d>', 'delta (default 1e-6)', number)
    .addOption(
      new Option('--objective <name>', 'what the loss is about (default next_token)').choices([
        'next_token',
        'instruct',
        'classify',
        'preference',
      ]),
    )
    .option('--steps <n>', 'steps', integer)
    .option('--batch <n>', 'units expected in a step', integer)
    .option('--sequence <n>', 'tokens in a sequence', integer)
    .option('--rank <n>', 'rank of the LoRA adapter', integer)
    .option('--targets <list>', 'linear layers under LoRA: q,k,v,o,gate,up,down or attention,mlp (default all)')
    .option('--layers <n>', 'only the last blocks (lora, norms)', integer)
    .option('--rate <r>', 'learning rate', number)
    .option('--ema <d>', 'decay of an average of iterates, which is then the result', number)
    .option('--augment [n]', 'learn from variants, too, which count with their example as one', integer)
    .option('--user <column>', 'column that holds the user')
    .option('--text <column>', 'column that holds the text')
    .option('--label <column>', 'column that holds the label')
    .option('--labels <list>', 'the labels, public: a,b,c or a file with one a line')
    .option('--holdout <file>', 'rows to measure a head on')
    .option('--minutes <n>', 'stop after so long', number)
    .option('--checkpoint-every <n>', 'save after so many steps (default: about every minute)', integer)
    .option('--out <dir>', 'where the result goes (default: trained)')
    .option('--resume <dir>', 'go on with the training that was interrupted in that folder');
  action(train, async (_, options) => reply(await (await import('./train.ts')).run(options as never), asJson));
}

function measureCommands(program: Command): void {
  const drift = program
    .command('drift')
    .description('run a drift detector over a file of numbers')
    .requiredOption('--detector <name>', 'adwin, page-hinkley, …')
    .requiredOption('--file <file>', 'a number a line')
    .option(
      '--set <name=value>',
      "change one of the detector's settings",
      (value: string, before: string[]) => [...before, value],
      [],
    );
  action(drift, async (_, options) => {
    const { run, human } = await import('./drift.ts');
    return reply(
      await run({ detector: options.detector as string, file: options.file as string, set: options.set as string[] }),
      human,
    );
  });
}

function privacyCommands(program: Command): void {
  const privacy = program.command('privacy').description('privacy accounting');
  const common = (command: Command): Command =>
    command
      .option('--sample-rate <q>', 'sampling rate', number)
      .option('--steps <t>', 'steps', number)
      .requiredOption('--delta <d>', 'delta', number)
      .addOption(new Option('--accountant <name>').choices(['rdp', 'prv']).default('prv'));
  const epsilon = common(privacy.command('epsilon').description('epsilon of given mechanisms'))
    .option('--noise-multiplier <s>', 'noise multiplier', number)
    .option('--file <file>', 'JSON list of {noise_multiplier, sample_rate, steps}');
  action(epsilon, async (_, options) => {
    const { epsilonCommand } = await import('./privacy.ts');
    return reply(await epsilonCommand(options as never), r => `epsilon ${r.epsilon}`);
  });
  const noise = common(privacy.command('noise').description('noise multiplier for a target epsilon')).requiredOption(
    '--epsilon <e>',
    'target',
    number,
  );
  action(noise, async (_, options) => {
    const { noiseCommand } = await import('./privacy.ts');
    return reply(await noiseCommand(options as never), r => `noise multiplier ${r.noise_multiplier}`);
  });
  const asked = (name: string, description: string): Command =>
    privacy.command(name).description(description).option('--data <dir>', "the daemon's data directory");
  const client = async (options: Record<string, unknown>) =>
    (await import('./client.ts')).connectDaemon({ data: options.data as string | undefined });
  action(asked('report', 'spend by round and by user quantile'), async (_, options) => {
    const { report, humanReport } = await import('./privacy.ts');
    return reply(await report(await client(options)), humanReport);
  });
  action(asked('verify', 'check the hash chain of the ledger'), async (_, options) => {
    const { verify, humanVerified } = await import('./privacy.ts');
    return reply(await verify(await client(options)), humanVerified);
  });
}

export function learnCommands(program: Command): void {
  policyCommands(program);
  trainCommands(program);
  pretrainCommand(program);
  measureCommands(program);
  privacyCommands(program);
  buildCommands(program);
}
