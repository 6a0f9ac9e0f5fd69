/** The example hello. */

import { predictor } from "dormouse";

export default predictor({
  input: { name: { type: "string", description: "Who to greet", minLength: 1, maxLength: 80 } },
  output: { type: "string" },
  predict: ({ name }) => `Hello, ${name}!`,
});
