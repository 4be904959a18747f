import { type Command, Option } from 'commander';
import { action, integer, number, reply } from './frame.ts';

/** `learnd model distill`. */
export function distillCommand(model: Command): void {
  const distill = model
    .command('distill')
    .argument('<teacher>')
    .description('a smaller student learns on public text what the teacher would say')
    .option('--adapter <file>', 'LoRA GGUF on the teacher')
    .option('--student <model>', 'whose weights are trained; or prune the teacher first:')
    .option('--ffn <width>', 'width kept of the teacher', integer)
    .option('--drop-layers <n>', 'layers dropped of the teacher', integer)
    .option('--file <files...>', 'public text (default: the sentences that come with learnd)')
    .addOption(
      new Option('--documents <kind>', 'what a document is (default line)').choices(['line', 'paragraph', 'file']),
    )
    .option('--temperature <t>', 'of both (default 1)', number)
    .option('--top-k <n>', 'tokens kept of the teacher a position (default 64)', integer)
    .option('--labels <share>', "of the text's own next words in the loss (default 0)", number)
    .option('--on-policy <share>', 'of the batches the student writes itself (GKD)', number)
    .option('--beta <b>', 'on-policy: 0 is KL(teacher || student), 1 KL(student || teacher) (default 0.5)', number)
    .option('--tokens <n>', 'on-policy: longest continuation (default 32)', integer)
    .option('--steps <n>', 'steps (default: three passes, at least 60)', integer)
    .option('--batch <n>', 'sequences in a step (default 8)', integer)
    .option('--sequence <n>', 'tokens in a sequence (default 128)', integer)
    .option('--rate <r>', 'learning rate', number)
    .option('--minutes <n>', 'stop after so long', number)
    .option('--resume', 'go on where the same command was interrupted')
    .requiredOption('--out <file>', 'GGUF');
  action(distill, async ([teacher], options) => {
    const { run, human } = await import('./distill.ts');
    return reply(await run({ ...(options as { out: string }), teacher: teacher! }), human);
  });
}
