// Queries' vectors by transformers.js: node encode_queries.mjs FOLDER_OF_MODELS NAME DTYPE POOLING < queries.json
import { readFileSync } from "node:fs";
import { env, pipeline } from "@huggingface/transformers";

const [folder, name, dtype, pooling] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = folder;
const extractor = await pipeline("feature-extraction", name, { dtype });
const vectors = await extractor(JSON.parse(readFileSync(0)), { pooling, normalize: true });
console.log(JSON.stringify(vectors.tolist()));
