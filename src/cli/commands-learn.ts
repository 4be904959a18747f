import { type Command, Option } from 'commander';
import { action, integer, later, number, reply } from './frame.ts';

/** Commands that need no daemon: policies, training, tokenizers, evaluation, drift, privacy, export, compression. */

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
    .requiredOption('--model <model>', 'GGUF file, model folder, or smollm2-135m')
    .requiredOption('--file <file>', 'text (a line a unit), JSONL or CSV')
    .addOption(
      new Option('--method <method>').choices(['auto', 'full', 'lora', 'norms', 'bias', 'head']).default('auto'),
    )
    .requiredOption('--epsilon <e>', 'privacy to spend, or none')
    .option('--delta <d>', 'delta', number)
    .option('--steps <n>', 'steps', integer)
    .option('--batch <n>', 'units expected in a step', integer)
    .option('--sequence <n>', 'tokens in a sequence', integer)
    .option('--user <column>', 'column that holds the user')
    .option('--text <column>', 'column that holds the text')
    .option('--label <column>', 'column that holds the label')
    .option('--minutes <n>', 'stop after so long', number)
    .option('--out <dir>', 'where the result goes');
  action(train, async (_, options) => reply(await (await import('./train.ts')).run(options as never), asJson));

  const tokenizer = program.command('tokenizer').description('train a tokenizer, encode text');
  const trainer = tokenizer
    .command('train')
    .argument('<files...>')
    .requiredOption('--vocab <n>', 'vocabulary size', integer);
  action(trainer.requiredOption('--out <file>', 'tokenizer.json'), async (files, options) => {
    const { train: run } = await import('./tokenizer.ts');
    const result = await run({ files, vocab: options.vocab as number, out: options.out as string });
    return reply(result, r => `${r.vocab_size} tokens in ${r.file}`);
  });
  const encoder = tokenizer
    .command('encode')
    .requiredOption('--model <model>', 'GGUF file, model folder, or tokenizer.json');
  action(encoder.requiredOption('--file <file>', 'a text a line'), async (_, options) => {
    const { encode } = await import('./tokenizer.ts');
    const result = await encode({ model: options.model as string, file: options.file as string });
    return reply(result, r => r.ids.map(ids => ids.join(' ')).join('\n'));
  });
}

function measureCommands(program: Command): void {
  const evaluate = program.command('eval').description('measure a model or predictions');
  const perplexity = evaluate.command('perplexity').requiredOption('--model <model>', 'GGUF file or model folder');
  action(perplexity.requiredOption('--file <file>', 'a sequence a line'), async (_, options) => {
    const { run, human } = await import('./eval-perplexity.ts');
    return reply(await run({ model: options.model as string, file: options.file as string }), human);
  });
  action(evaluate.command('f1').requiredOption('--file <file>', 'JSONL {"true","predicted"}'), async (_, options) => {
    const { run, human } = await import('./eval-f1.ts');
    return reply(await run({ file: options.file as string }), human);
  });
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
  later(privacy, 'report', 'spend by round and by user quantile');
  later(privacy, 'verify', 'check the hash chain of the ledger');
}

function modelCommands(program: Command): void {
  const format = new Option('--format <format>').choices(['gguf', 'safetensors', 'peft']).makeOptionMandatory();
  const out = program
    .command('export')
    .argument('<model>')
    .description('write a model in another format')
    .addOption(format);
  action(
    out.requiredOption('--out <dir>').option('--data <dir>', "the daemon's data directory"),
    async ([model], options) => {
      const { run, human } = await import('./export.ts');
      return reply(
        await run({
          model: model!,
          format: options.format as never,
          out: options.out as string,
          data: options.data as string | undefined,
        }),
        human,
      );
    },
  );
  later(program, 'import', 'import a model as a version');
  later(program, 'build', 'build a model from raw text');

  const model = program.command('model').description('prune or quantize outside the daemon');
  const prune = model
    .command('prune')
    .argument('<model>')
    .option('--ffn <width>', 'width kept', integer)
    .option('--drop-layers <n>', 'layers dropped', integer)
    .option('--calibration <file>', 'public text, a line a sample')
    .requiredOption('--out <file>', 'GGUF');
  action(prune, async ([path], options) => {
    const { prune: run } = await import('./model.ts');
    return reply(
      await run({
        model: path!,
        ...(options as { ffn?: number; dropLayers?: number; calibration?: string; out: string }),
      }),
      asJson,
    );
  });
  const quantize = model
    .command('quantize')
    .argument('<model>')
    .requiredOption('--type <type>', 'q8_0, q4_0, f16, …')
    .requiredOption('--out <file>', 'GGUF');
  action(quantize, async ([path], options) => {
    const { quantize: run } = await import('./model.ts');
    return reply(await run({ model: path!, type: options.type as string, out: options.out as string }), asJson);
  });
  later(model, 'distill', 'distil a smaller student');
  later(model, 'merge', 'merge an adapter into its base');
}

export function learnCommands(program: Command): void {
  policyCommands(program);
  trainCommands(program);
  measureCommands(program);
  privacyCommands(program);
  modelCommands(program);
}
