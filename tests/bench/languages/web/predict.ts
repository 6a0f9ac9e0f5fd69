/** The example hello on the engine with the web's interfaces. */

import hello from "../javascript/predict.ts";

export default hello;
