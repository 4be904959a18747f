/** Run as a process of its own: how much memory opening and loading a model takes, beside what the program has before. */
import { loadEngineModel } from '../../src/learn/model/engine/index.ts';
import { openModel } from '../../src/learn/model/open.ts';
import { tensorflow } from '../../src/learn/tensor/backend.ts';

const tf = tensorflow({ threads: 1 });
tf.matMul(tf.ones([64, 64]), tf.ones([64, 64])).dataSync();
const before = process.memoryUsage.rss();
const checkpoint = await openModel(process.argv[2]!);
const model = loadEngineModel(checkpoint);
const weights = model.parameterNames().reduce((sum, name) => sum + 4 * model.parameter(name).size, 0);
const peak = process.resourceUsage().maxRSS * 1024;
process.stdout.write(`${JSON.stringify({ weights, taken: peak - before })}\n`);
