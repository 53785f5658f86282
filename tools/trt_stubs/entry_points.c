/* What the Python bindings of TensorRT import from its libraries, as far as being imported themselves needs it. */
#define ENTRY(name) \
    void* name(void) { return 0; }

ENTRY(createInferBuilder_INTERNAL)
ENTRY(createInferRefitter_INTERNAL)
ENTRY(createInferRuntime_INTERNAL)
ENTRY(createNvOnnxParser_INTERNAL)
ENTRY(createNvOnnxParserRefitter_INTERNAL)
ENTRY(getBuilderPluginRegistry)
ENTRY(getNvOnnxParserVersion)
ENTRY(getPluginRegistry)
ENTRY(initLibNvInferPlugins)
