/** More training text from the text there is: by words, seeded, with the source of each variant kept. What a chat model writes is in by-model.ts. */
export { type AugmentOptions, augment, labelWords, operationNamed, type Variant, variantGroups } from './augment.ts';
export { MODEL_OPERATIONS, type ModelOperation, type ModelVariant } from './model-operations.ts';
export { OPERATIONS, type Operation } from './operations.ts';
export { openWordNet, type Thesaurus } from './thesaurus.ts';
