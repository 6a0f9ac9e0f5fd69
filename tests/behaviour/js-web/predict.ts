/** The same predictor on the other engine, which a use of the web's interfaces chooses. */

import behaviour from "../js/predict.ts";

// Runs while the component is built; the case of a big input counts on UTF-8.
if (new TextEncoder().encode("ß").length !== 2) throw new Error("text is not UTF-8 here");

export default behaviour;
