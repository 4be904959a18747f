import { type Command, Option } from 'commander';
import { distillCommand } from './commands-distill.ts';
import { action, integer, number, reply } from './frame.ts';

/** Commands about models as files: augmentation, tokenizers, evaluation, export, compression. */

const asJson = (result: unknown): string => JSON.stringify(result, null, 2);

function tokenizerCommands(program: Command): void {
  const tokenizer = program.command('tokenizer').description('train a tokenizer, grow one, encode text');
  const trainer = tokenizer
    .command('train')
    .argument('<files...>')
    .requiredOption('--vocab <n>', 'vocabulary size', integer)
    .addOption(
      new Option('--pre <rule>', 'how text is cut before merging (default smollm)').choices([
        'gpt-2',
        'smollm',
        'llama-bpe',
        'qwen2',
      ]),
    )
    .option(
      '--special <token>',
      'a control token; the first begins a text, the second ends one (may be given again)',
      (value: string, before: string[]) => [...before, value],
      [],
    );
  action(trainer.requiredOption('--out <file>', 'tokenizer.json'), async (files, options) => {
    const { train: run } = await import('./tokenizer.ts');
    const result = await run({ ...(options as { vocab: number; out: string }), files });
    return reply(result, r => `${r.vocab_size} tokens in ${r.file}`);
  });
  const grow = tokenizer
    .command('grow')
    .argument('<files...>')
    .description("add a domain's words to a model's vocabulary; no id moves")
    .requiredOption('--model <model>', 'GGUF file or model folder')
    .requiredOption('--add <n>', 'tokens to add, at most', integer);
  action(grow.requiredOption('--out <dir>', 'the model with the grown vocabulary'), async (files, options) => {
    const { run, human } = await import('./tokenizer-grow.ts');
    return reply(await run({ ...(options as { model: string; add: number; out: string }), files }), human);
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

function evalCommands(program: Command): void {
  const evaluate = program.command('eval').description('measure a model or predictions');
  const perplexity = evaluate.command('perplexity').requiredOption('--model <model>', 'GGUF file or model folder');
  perplexity.option('--logit-bias <file>', 'JSON [[token id, bias], …] of a version, added to the logits');
  action(perplexity.requiredOption('--file <file>', 'a sequence a line'), async (_, options) => {
    const { run, human } = await import('./eval-perplexity.ts');
    const { model, file, logitBias } = options as { model: string; file: string; logitBias?: string };
    return reply(await run({ model, file, logitBias }), human);
  });
  action(evaluate.command('f1').requiredOption('--file <file>', 'JSONL {"true","predicted"}'), async (_, options) => {
    const { run, human } = await import('./eval-f1.ts');
    return reply(await run({ file: options.file as string }), human);
  });
  const target = (command: Command): Command =>
    command
      .option('--model <model>', 'GGUF file, or with --data a name the daemon knows')
      .option('--data <dir>', "a running daemon's data directory");
  const answers = target(evaluate.command('answers').description('exact match and ROUGE-L of answers'))
    .requiredOption('--file <file>', 'JSONL {"reference", "answer"}, or {"reference", "prompt"} to be asked')
    .option('--tokens <n>', 'longest answer', integer)
    .option('--unicode', 'words of all scripts (the reference ROUGE knows a-z and 0-9 only)')
    .option('--save <file>', 'write the answers as JSONL');
  action(answers, async (_, options) => {
    const { run, human } = await import('./eval-answers.ts');
    return reply(await run(options as never), human);
  });
  const speed = target(evaluate.command('speed').description('response time, first token, tokens/s, error rate'))
    .option('--file <file>', 'prompts, a line each')
    .option('--requests <n>', 'answers timed (default 20)', integer)
    .option('--tokens <n>', 'longest answer (default 64)', integer)
    .option('--parallel <n>', 'at once, of a daemon (default 1)', integer);
  action(speed, async (_, options) => {
    const { run, human } = await import('./eval-speed.ts');
    return reply(await run(options as never), human);
  });
  const report = evaluate
    .command('report')
    .description('measure models and write one HTML page with plots')
    .requiredOption('--out <file>', 'HTML')
    .option('--model <models...>', 'GGUF files, or with --data names the daemon knows')
    .option('--data <dir>', "a running daemon's data directory")
    .option('--text <file>', 'a sequence a line: perplexity')
    .option('--predictions <file>', 'JSONL {"true","predicted"}: F1')
    .option('--answers <file>', 'JSONL as for eval answers')
    .option('--speed', 'time answers')
    .option('--requests <n>', 'answers timed', integer)
    .option('--tokens <n>', 'longest answer', integer)
    .option('--training <file>', 'what learnd train --json printed: its loss is drawn')
    .option('--title <text>', 'title of the page');
  action(report, async (_, options) => {
    const { run, human } = await import('./eval-report.ts');
    return reply(await run(options as never), human);
  });
}

function modelCommands(program: Command): void {
  const format = new Option('--format <format>').choices(['gguf', 'safetensors', 'peft']).makeOptionMandatory();
  const out = program
    .command('export')
    .argument('<model>')
    .description('write a model in another format')
    .addOption(format);
  action(
    out
      .requiredOption('--out <dir>')
      .option('--type <type>', 'how weights are stored: gguf q8_0, q4_0, f16 …; safetensors f32, f16, bf16')
      .option('--data <dir>', "the daemon's data directory"),
    async ([model], options) => {
      const { run, human } = await import('./export.ts');
      return reply(
        await run({
          model: model!,
          format: options.format as never,
          out: options.out as string,
          type: options.type as string | undefined,
          data: options.data as string | undefined,
        }),
        human,
      );
    },
  );
  const into = program
    .command('import')
    .argument('<model>')
    .description('make a version of a running daemon of a GGUF file or a model folder; it is not promoted')
    .option('--name <name>', "the model's name, as the daemon has it")
    .option('--type <type>', 'store it as q8_0, q4_0 … (default: as it is; f16 of a folder)');
  action(into.option('--data <dir>', "the daemon's data directory"), async ([file], options) => {
    const { run, human } = await import('./import.ts');
    return reply(await run({ ...options, file: file! }), human);
  });
  const build = program.command('build').description('a model from raw text, or published weights, to a compact one');
  action(build.requiredOption('--config <file>', 'stages, as in config/build.yaml'), async (_, options) => {
    const { run, human } = await import('./build.ts');
    return reply(await run({ config: options.config as string }), human);
  });

  const model = program.command('model').description('prune, distil, quantize or merge outside the daemon');
  const prune = model
    .command('prune')
    .argument('<model>')
    .option('--method <method>', 'neurons by flap (default), activation, wanda, magnitude, random')
    .option('--ffn <width>', 'width kept', integer)
    .option('--uneven', 'the width is an average: each layer keeps what its neurons are worth')
    .option('--drop-layers <n>', 'layers dropped', integer)
    .option('--layers-by <method>', 'layers by influence (default), sleb, random')
    .option('--sparsity <share>', 'zero single weights instead: a share, or 2:4 (nothing gets faster)')
    .option('--seed <text>', 'of random choices')
    .option('--calibration <file>', 'public text, a line a sample; or private, with --file and --epsilon')
    .option('--file <file>', 'private text: a line a unit, or CSV and JSONL with columns')
    .option('--epsilon <e>', 'what private calibration may cost', number)
    .option('--delta <d>', 'default 1e-6', number)
    .option('--user <column>', 'whose text it is; without it each row is a unit of its own')
    .option('--text <column>', 'column that holds the text (default text)')
    .requiredOption('--out <file>', 'GGUF');
  action(prune, async ([path], options) => {
    const { prune: run } = await import('./model.ts');
    return reply(await run({ model: path!, ...(options as { out: string }) }), asJson);
  });
  const quantize = model
    .command('quantize')
    .argument('<model>')
    .requiredOption('--type <type>', 'f32, f16, bf16, q8_0, q6_k, q5_k, q4_k, q5_1, q5_0, q4_1, q4_0')
    .requiredOption('--out <file>', 'GGUF');
  action(quantize, async ([path], options) => {
    const { quantize: run } = await import('./model.ts');
    return reply(await run({ model: path!, type: options.type as string, out: options.out as string }), asJson);
  });
  distillCommand(model);
  const merge = model
    .command('merge')
    .argument('<model>')
    .description('work a LoRA adapter into its base')
    .option('--adapter <path>', "LoRA GGUF or PEFT folder (default: the version's own)")
    .option('--scale <s>', 'strength of the adapter (default 1)', number)
    .option('--data <dir>', "the daemon's data directory, for a version")
    .requiredOption('--out <path>', 'FILE.gguf, or a folder for transformers');
  action(merge, async ([path], options) => {
    const { run, human } = await import('./model-merge.ts');
    return reply(await run({ ...(options as { out: string }), model: path! }), human);
  });
}

function augmentCommand(program: Command): void {
  const augment = program
    .command('augment')
    .argument('<file>', 'text, JSONL or CSV')
    .description(
      'write variants of texts: synonyms, insertions, swaps, deletions, punctuation, or in other words of a model',
    )
    .requiredOption('--out <file>', 'JSONL')
    .option('--text <column>', 'column that holds the text (default text)')
    .option('--label <column>', 'column of labels whose words are never touched')
    .option(
      '--operations <list>',
      'of synonym,insert,swap,delete,punctuation (default these), paraphrase,back-generation',
    )
    .option('--count <n>', 'variants of a text (default 4)', integer)
    .option('--alpha <a>', 'share of the words changed (default 0.1)', number)
    .option('--seed <text>', 'the same seed gives the same variants')
    .option('--model <model>', 'chat model (GGUF) that paraphrases and writes texts for labels')
    .option('--similarity <s>', 'least cosine of a paraphrase to its source (default 0.4)', number)
    .option('--answer <column>', 'column of answers that texts for labels shall fit')
    .option('--about <text>', 'who writes to whom, for texts for labels');
  action(augment, async ([file], options) => {
    const { run, human } = await import('./augment.ts');
    return reply(await run({ ...(options as { out: string }), file: file! }), human);
  });
}

export function buildCommands(program: Command): void {
  augmentCommand(program);
  tokenizerCommands(program);
  evalCommands(program);
  modelCommands(program);
}
