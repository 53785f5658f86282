// vitc::VitAttention version 1 for TensorRT: IPluginV3 with its core, build and runtime sides in one object.
// Its fields, names and limits are generated from vit_attention.toml, which the Python plugin reads too.
#pragma once

#include <NvInfer.h>
#include <NvInferRuntimePlugin.h>

#include <string>
#include <vector>

#include "dispatch.h"
#include "vit_attention_spec.h"

namespace vitc {

// A parsed field collection, or the sentence that says what is wrong with it.
bool parse_fields(nvinfer1::PluginFieldCollection const& collection, AttentionFields& fields, std::string& error);

class VitAttentionPlugin : public nvinfer1::IPluginV3,
                           public nvinfer1::IPluginV3OneCore,
                           public nvinfer1::IPluginV3OneBuild,
                           public nvinfer1::IPluginV3OneRuntime {
public:
    explicit VitAttentionPlugin(AttentionFields fields);

    // IPluginV3
    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
    nvinfer1::IPluginV3* clone() noexcept override;

    // IPluginV3OneCore
    char const* getPluginName() const noexcept override;
    char const* getPluginVersion() const noexcept override;
    char const* getPluginNamespace() const noexcept override;

    // IPluginV3OneBuild
    int32_t getNbOutputs() const noexcept override;
    int32_t getOutputDataTypes(nvinfer1::DataType* output_types, int32_t output_count,
                               nvinfer1::DataType const* input_types, int32_t input_count) const noexcept override;
    int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t input_count,
                            nvinfer1::DimsExprs const* shape_inputs, int32_t shape_input_count,
                            nvinfer1::DimsExprs* outputs, int32_t output_count,
                            nvinfer1::IExprBuilder& builder) noexcept override;
    bool supportsFormatCombination(int32_t position, nvinfer1::DynamicPluginTensorDesc const* in_out,
                                   int32_t input_count, int32_t output_count) noexcept override;
    int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const* inputs, int32_t input_count,
                            nvinfer1::DynamicPluginTensorDesc const* outputs, int32_t output_count) noexcept override;

    // IPluginV3OneRuntime
    int32_t onShapeChange(nvinfer1::PluginTensorDesc const* inputs, int32_t input_count,
                          nvinfer1::PluginTensorDesc const* outputs, int32_t output_count) noexcept override;
    int32_t enqueue(nvinfer1::PluginTensorDesc const* input_desc, nvinfer1::PluginTensorDesc const* output_desc,
                    void const* const* inputs, void* const* outputs, void* workspace,
                    cudaStream_t stream) noexcept override;
    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
    nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept override;

private:
    int32_t input_count() const;
    bool int8_in() const { return fields_.q_scale > 0.0f; }
    bool int8_out() const { return fields_.out_scale > 0.0f; }
    VariantKey variant_key() const;
    bool check_shapes(nvinfer1::PluginTensorDesc const* inputs, nvinfer1::PluginTensorDesc const& output,
                      std::string& error) const;

    AttentionFields fields_;
    std::vector<nvinfer1::PluginField> serialized_;
    nvinfer1::PluginFieldCollection collection_{};
    // Set in onShapeChange, read in enqueue. Each execution context has a clone of its own, so nothing is shared.
    Kernel kernel_{};
    AttentionParams params_{};
};

class VitAttentionCreator : public nvinfer1::IPluginCreatorV3One {
public:
    VitAttentionCreator();
    nvinfer1::IPluginV3* createPlugin(char const* name, nvinfer1::PluginFieldCollection const* collection,
                                      nvinfer1::TensorRTPhase phase) noexcept override;
    nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override;
    char const* getPluginName() const noexcept override;
    char const* getPluginVersion() const noexcept override;
    char const* getPluginNamespace() const noexcept override;

private:
    std::vector<nvinfer1::PluginField> names_;
    nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace vitc
