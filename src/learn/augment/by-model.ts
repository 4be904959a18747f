/** More training text by a chat model through llama.cpp: texts in other words, and new texts for labels. */
export { backGenerate, type Wanted } from './back-generation.ts';
export { type ModelAugmentOptions, type ModelVariants, paraphrase } from './paraphrase.ts';
export { MeaningCheck, REJECTIONS, type Rejection } from './paraphrase-check.ts';
export { type ChatModel, openChatModel } from './paraphrase-model.ts';
