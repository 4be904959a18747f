export type { Classification } from './classify.ts';
export type { LoadResult, VersionFiles } from './engine/protocol.ts';
export type * from './ports.ts';
export { type ServeOptions, Serving } from './server.ts';
