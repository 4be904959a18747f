import { type Command, Option } from 'commander';
import { action, integer, number, reply } from './frame.ts';

/** `learnd pretrain`. */
export function pretrainCommand(program: Command): void {
  const pretrain = program
    .command('pretrain')
    .description('make a model from nothing but text, or take one further on it')
    .option('--file <files...>', 'text')
    .addOption(
      new Option('--documents <kind>', 'what a document is (default line)').choices(['line', 'paragraph', 'file']),
    )
    .option('--tokenizer <file>', 'tokenizer.json or a model whose vocabulary is taken')
    .option('--vocab <n>', 'train a vocabulary of so many tokens (default 2048)', integer)
    .option('--from <model>', 'go on from these weights')
    .addOption(
      new Option(
        '--objective <name>',
        'causal: the next word (default); masked: gaps, both sides seen (BERT); mixed: both through one head (GPT-BERT)',
      ).choices(['causal', 'masked', 'mixed']),
    )
    .option('--masked-share <s>', 'mixed: share of sequences with gaps (default 0.5)', number)
    .option('--bidirectional', 'mixed: sequences with gaps see both sides')
    .option('--hidden <n>', 'width (default 96)', integer)
    .option('--layers <n>', 'blocks (default 3)', integer)
    .option('--heads <n>', 'attention heads (default 4)', integer)
    .option('--kv-heads <n>', 'key/value heads (default half as many)', integer)
    .option('--ffn <n>', 'feed-forward width (default 8/3 of the width; less is leaner)', integer)
    .option('--context <n>', 'longest text, tokens (default 1024)', integer)
    .option('--untied', 'a head of its own instead of the embedding')
    .option('--sequence <n>', 'tokens in a sequence (default 128)', integer)
    .option('--batch <n>', 'sequences in a step (default 8)', integer)
    .option('--steps <n>', 'steps', integer)
    .option('--passes <n>', 'passes over the text (default 3)', number)
    .option('--rate <r>', 'learning rate', number)
    .addOption(
      new Option('--schedule <kind>', 'of the rate (default cosine)').choices(['constant', 'cosine', 'linear']),
    )
    .option('--warmup <n>', 'steps of warm-up', integer)
    .option('--holdout <share>', 'of the documents, measured at the end (default 0.05)', number)
    .option('--seed <text>', 'the same seed gives the same model')
    .option('--minutes <n>', 'stop after so long', number)
    .option('--checkpoint-every <n>', 'save after so many steps (default: about every minute)', integer)
    .option('--out <dir>', 'where the result goes (default: pretrained)')
    .option('--resume <dir>', 'go on with the one that was interrupted in that folder');
  action(pretrain, async (_, options) => {
    const { run, human } = await import('./pretrain.ts');
    return reply(await run(options as never), human);
  });
}
